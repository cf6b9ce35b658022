"""What a user should know before a run: what was left out of the data, and settings that do not do as they say."""

from collections.abc import Sequence
from pathlib import Path

from dqo.cli.flat_settings import read_settings
from dqo.cli.recipe import Recipe
from dqo.errors import DQOError
from dqo.integrations.trl.config import DiversityArguments, DQOConfig
from dqo.rewards.loading import QUALITY, Entry, read_entries
from dqo.tasks import Task

_ABOUT_SHAPE = ("length", "format", "ended")  # rewards that do not say whether a response is good


def run_notes(recipe: Recipe, task: Task) -> list[str]:
    """What a user should know before the run: what was left out of the data, and settings that do not do as they say.

    Args:
        recipe: Checked settings.
        task: Its task, the prompts already read.

    Returns:
        Sentences.
    """
    notes = [f"{note}." for note in getattr(task, "notes", [])]
    config = recipe.config
    warnings = (
        outcome_warning(task, read_entries(recipe.rewards), config.largest_alpha, config.combine),
        _scaling_warning(config),
        _baseline_warning(recipe),
    )
    return [*notes, *(f"warning: {warning}" for warning in warnings if warning)]


def outcome_warning(task: Task, entries: Sequence[Entry], alpha: float, combine: str) -> str | None:
    """What goes wrong when diversity is added to a reward that only tells right from wrong, and the remedy.

    Args:
        task: Whose quality and answer span are used.
        entries: The rewards of the run.
        alpha: Weight of the credit.
        combine: How the credit joins the reward.

    Returns:
        One sentence, or None where nothing is wrong.
    """
    paid = [entry for entry in entries if entry.weight > 0 and entry.reward not in _ABOUT_SHAPE]
    outcome = all(
        entry.reward == "math" or (entry.reward == QUALITY and getattr(task, "outcome_only", False)) for entry in paid
    )
    if alpha == 0 or not paid or not outcome:
        return None
    faults, remedies = [], []
    if not getattr(task, "cuts_span", False):
        faults.append("to answer and then to write something unique, which the whole embedded response is paid for")
        remedies.append("embed the answer span only (a task whose answer_span cuts, such as gsm8k)")
    if combine in ("add", "multiply"):
        faults.append("to be wrong in new ways")
        remedies.append("set combine: quality_weighted or gate, or use a reward model")
    if not faults:
        return None
    return (
        f"the reward tells right from wrong and nothing else, so with alpha={alpha:g} and combine={combine!r} a policy "
        f"can learn {' and '.join(faults)}; {' and '.join(remedies)}."
    )


def _baseline_warning(recipe: Recipe) -> str | None:
    """A floor that is another task's, or that of a run which gave up quality for diversity itself."""
    if recipe.config.quality_floor_of is None:
        return None
    place = Path(recipe.config.quality_floor_of)
    settings = (place if place.is_dir() else place.parent) / "config.yaml"
    if not settings.is_file():
        return None
    try:
        baseline = read_settings(settings)
    except DQOError as error:  # the floor is read from another file; this one only says more about it
        return f"quality_floor_of={str(place)!r}: of which task and alpha that run is cannot be read ({error})."
    if baseline.get("task", recipe.task) != recipe.task:
        return (
            f"quality_floor_of={str(place)!r} is a run of task {baseline['task']!r}, and this one of {recipe.task!r}."
        )
    if baseline.get("alpha") and baseline.get("diversity") != "none":
        return (
            f"quality_floor_of={str(place)!r} is a run with alpha={baseline['alpha']}, so that the floor is not the "
            "quality of the task's reward alone; train the baseline with alpha=0."
        )
    return None


def _scaling_warning(config: DiversityArguments) -> str | None:
    """An alpha that is to move has no effect in tied groups that are divided by their own std."""
    if not config.alpha_moves or config.diversity_spec().signal.place not in ("credit", "discount"):
        return None
    if not isinstance(config, DQOConfig) or config.scale_rewards != "group":
        return None
    if config.std_floor or config.decouple_credit or config.skip_tied_groups:
        return None
    return (
        "scale_rewards='group' gives a group whose task rewards tie the same advantages whatever alpha is, so that an "
        "alpha that moves changes nothing there; set trainer.std_floor, of which 0.1 acts below an alpha of about 1, "
        "or trainer.decouple_credit=true."
    )
