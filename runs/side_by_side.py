"""Shows what two arms of the demo answer, for three prompts drawn by the seed, and a small table.

    python runs/side_by_side.py FOLDER TASK SEED

One of the three is drawn among the prompts on which DQO gave a wrong answer, where there are any.
"""

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten

from dqo.errors import printable
from dqo.evaluation.metrics import AnswerKey
from dqo.files.records import Group, Prompt, read_groups
from dqo.tasks import load_task

RIGHT = 0.5
LETTERS = 26  # of an answer, its last ones: what was asked for comes at the end
METRICS = {
    "quality": "quality",
    "distinct_right@10": "distinct right of ten",
    "heldout/vendi_1": "Vendi, held-out encoder",
}


def choose(groups: list[Group], seed: int) -> list[tuple[Group, str]]:
    """Two groups drawn among all, and one among those with a wrong answer; each with a word on it."""
    rng = random.Random(seed)
    failed = [group for group in groups if min(group.rewards or [1.0]) < RIGHT]
    failure = [(rng.choice(failed), "drawn among those where DQO failed")] if failed else []
    others = [group for group in groups if not failure or group.id != failure[0][0].id]
    return [(group, "drawn") for group in rng.sample(others, min(len(others), 3 - len(failure)))] + failure


def answers(group: Group, key: AnswerKey | None) -> str:
    """The answers of a group on one line, the most frequent first; wrong ones in brackets.

    What the task's key calls the same right answer is counted as one, and shown in its first wording.
    """
    prompt = Prompt(group.id, group.prompt, group.reference, group.meta)
    said, wordings = Counter(), {}
    for text, worth in zip(group.responses, group.rewards or [0.0] * len(group.responses), strict=True):
        text, right = " ".join(text.split()), worth >= RIGHT
        same = (key(prompt, text) if key and right else None) or text
        said[same] += 1
        # Backwards, because `shorten` keeps whole words from the start.
        shown = printable(shorten(text[::-1], LETTERS, placeholder=" …")[::-1]) or "(empty)"
        wordings.setdefault(same, shown if right else f"[{shown}]")
    return " · ".join(wordings[same] + (f" × {times}" if times > 1 else "") for same, times in said.most_common())


def table(folder: Path) -> Iterator[str]:
    """A line per arm with the means over all prompts."""
    rows = [["", *METRICS.values()]]
    for name in ("base", "reward-only", "dqo"):
        metrics = json.loads((folder / name / "eval" / "metrics.json").read_text())["metrics"]
        rows.append([name, *("–" if metrics.get(m) is None else f"{metrics[m]['mean']:.2f}" for m in METRICS)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def main() -> None:
    """Print prompts, answers and table."""
    folder, task, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    key = getattr(load_task(task), "answer_key", None)
    arms = {name: read_groups(folder / name / "eval" / "groups.jsonl") for name in ("reward-only", "dqo")}
    plain = {group.id: group for group in arms["reward-only"]}
    print("Ten answers of each arm; [wrong ones] in brackets.")
    for group, how in choose(arms["dqo"], seed):
        print(f"\n{printable(' '.join(group.prompt.split()))} ({how})")
        print(f"  reward-only  {answers(plain[group.id], key)}\n  dqo          {answers(group, key)}")
    print("", *table(folder), sep="\n")


if __name__ == "__main__":
    main()
