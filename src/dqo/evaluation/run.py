"""One evaluation: groups in, a folder with groups.jsonl, prompt_metrics.jsonl and metrics.json out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.errors import RecipeError
from dqo.evaluation.metrics import Encoder, metrics_document, prompt_values
from dqo.evaluation.score import Reward, score_with_reward, score_with_task
from dqo.records import Group, write_groups, write_json, write_text

if TYPE_CHECKING:
    from dqo.tasks import Task


def evaluate(
    groups: Sequence[Group],
    *,
    encoder: Encoder,
    out: str | Path,
    task: "Task | None" = None,
    reward: Reward | None = None,
    heldout_encoder: Encoder | None = None,
    pass_threshold: float = 0.5,
    seed: int = 0,
) -> dict[str, Any]:
    """Score the groups, measure them, and write the folder; metrics.json comes last and marks it as complete.

    Args:
        groups: What a model answered.
        encoder: Judge of diversity.
        out: Folder; files of the three names are replaced.
        task: Gives the quality and the answer span whose diversity is measured.
        reward: Gives the quality in place of a task; diversity is then that of whole responses.
        heldout_encoder: Second judge, under `heldout/`; choose one the policy was not trained against.
        pass_threshold: Least reward that passes.
        seed: Of the bootstrap.

    Returns:
        The content of metrics.json. Without task and reward the rewards that the groups carry are used; where they
        carry none, quality, max@k and pass@k are None and an entry of "notes" says so.

    Raises:
        RecipeError: If both a task and a reward are given.
        RewardError: If the task or reward fails.
        EncoderError: If an encoder fails.
        DataError: If there is no group.
    """
    if task is not None and reward is not None:
        raise RecipeError("An evaluation takes its quality from a task or from a reward, got both; leave one out.")
    if task is not None:
        groups = score_with_task(groups, task)
    elif reward is not None:
        groups = score_with_reward(groups, reward)
    span = str if task is None else task.answer_span
    values = prompt_values(groups, encoder, heldout_encoder, answer_span=span, pass_threshold=pass_threshold)
    document = metrics_document(
        groups,
        values,
        seed=seed,
        encoder=encoder.name,
        heldout_encoder=None if heldout_encoder is None else heldout_encoder.name,
        task=None if task is None else task.name,
        pass_threshold=pass_threshold,
        notes=_notes(groups, scorer_given=task is not None or reward is not None),
    )
    rows = [{"id": group.id} | {name: column[i] for name, column in values.items()} for i, group in enumerate(groups)]
    out = Path(out)
    write_groups(out / "groups.jsonl", groups)
    write_text(out / "prompt_metrics.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_json(out / "metrics.json", document)
    return document


def _notes(groups: Sequence[Group], scorer_given: bool) -> list[str]:
    unscored = sum(group.rewards is None for group in groups)
    if not unscored:
        return []
    if unscored < len(groups):
        return [f"quality, max@k and pass@k leave out {unscored} of {len(groups)} prompts, which are not fully scored."]
    reason = "no response could be scored" if scorer_given else "no task or reward was given"
    return [f"quality, max@k and pass@k are null: {reason}."]
