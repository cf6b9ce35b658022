"""Twenty random responses of every finalist, as they are: what the study's figures stand for.

Run `python experiments/random_responses.py experiments/*/*_finals.yaml > docs/results/random_responses.md` when
the sweeps are done. Arms of as many seeds show the same places of the same prompts.
"""

import random
import re
import sys
from pathlib import Path

from dqo.files.records import Group, read_groups
from dqo.sweep.plan import Run, read_sweep

SHOWN = 20


def plain(text: str) -> str:
    """A response on one line, with nothing in it that Markdown would act on."""
    return re.sub(r"([\\`*_\[\]<>#|~&])", r"\\\1", " ".join(text.split())) or "(nothing)"


def asked(group: Group) -> str:
    """What tells this prompt from the others of its task."""
    return str(group.meta.get("continent") or ", ".join(group.meta.get("concepts", [])) or group.prompt)


def lines(runs: list[Run], folder: str) -> list[str]:
    """The list items of one arm.

    Args:
        runs: Its runs, one a seed; what was not evaluated is left out.
        folder: Name of the evaluation in each run.
    """
    files = [run.folder / folder / "groups.jsonl" for run in runs]
    groups = [read_groups(file) for file in files if file.exists()]
    places = [
        (s, g, i) for s, seed in enumerate(groups) for g, one in enumerate(seed) for i in range(len(one.responses))
    ]
    found = []
    for s, g, i in random.Random(0).sample(places, min(SHOWN, len(places))):
        group = groups[s][g]
        found.append(f"- ({plain(asked(group))}) {plain(group.responses[i])} *{group.rewards[i]:.2f}*")
    return found


def main(paths: list[str]) -> None:
    """Print a section a task and a list an arm.

    Args:
        paths: Sweep files of finalists.
    """
    print("# Twenty random responses of every finalist\n")
    print("Test prompts of the [earlier studies](index.md), drawn by `experiments/random_responses.py` over all seeds")
    print("of an arm and shown as they are, each with its quality.")
    for path in paths:
        sweep, _ = read_sweep(path)
        print(f"\n## {sweep.evaluation.task} (`{Path(path).name}`)")
        for arm in dict.fromkeys(run.arm for run in sweep.runs):
            shown = lines([run for run in sweep.runs if run.arm == arm], sweep.evaluation.folder)
            if shown:
                print(f"\n**{arm}**\n")
                print("\n".join(shown))


if __name__ == "__main__":
    main(sys.argv[1:])
