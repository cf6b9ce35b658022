"""What a run is fed: its task, prompts and rewards, made of a recipe and checked before the policy is trained."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.errors import DataError, DQOError
from dqo.files.records import Prompt, read_prompts
from dqo.integrations.trl.config import DiversityArguments, DQOConfig
from dqo.models.chat import rendered
from dqo.rewards import TaskReward
from dqo.rewards.calling import RecordReward, encode_record
from dqo.rewards.loading import QUALITY, Entry, load_reward, read_entries
from dqo.tasks import Task, load_task, takes_path
from dqo.train.recipe import Recipe, read_settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def task_options(recipe: Recipe) -> dict[str, Any]:
    """Arguments of the task, the local copy of its data set among them where `data.path` names one.

    Args:
        recipe: Checked settings.

    Returns:
        Keyword arguments of the task's class.
    """
    path = recipe.data.get("path")
    return {**recipe.task_options, **({"path": path} if path and takes_path(recipe.task) else {})}


def recipe_task(recipe: Recipe) -> Task:
    """The task of a recipe.

    Args:
        recipe: Checked settings.

    Returns:
        The task.

    Raises:
        RecipeError: An unknown task or option.
    """
    return load_task(recipe.task, **task_options(recipe))


def training_prompts(recipe: Recipe, task: Task) -> list[Prompt]:
    """The prompts to train on: those of the task, or of the recipe's own file.

    Args:
        recipe: Names the file and the batch.
        task: Has the prompts of the split "train".

    Returns:
        The prompts.

    Raises:
        DataError: A bad file, one with prompts of the task's split "test", or fewer prompts than one generation batch
            holds groups.
    """
    path = recipe.data.get("path")
    own = path is not None and not takes_path(recipe.task)
    prompts = read_prompts(Path(path).expanduser()) if own else task.prompts("train")
    if own:
        _check_unseen(prompts, task, path)
    config = recipe.config
    groups = config.generation_batch_size // config.num_generations
    if len(prompts) < groups:
        raise DataError(
            f"{path or 'task ' + repr(task.name)}: expected at least {groups} prompts to train on, one a group of a "
            f"step, got {len(prompts)}; add prompts or lower trainer.per_device_train_batch_size."
        )
    return prompts


def _check_unseen(prompts: Sequence[Prompt], task: Task, path: str) -> None:
    """Refuse to train on what the task keeps for evaluation."""
    try:
        test = {prompt.prompt for prompt in task.prompts("test")}
    except DataError:  # a task that reads files may have been given none for this split
        return
    seen = [prompt.id for prompt in prompts if prompt.prompt in test]
    if seen:
        raise DataError(
            f"{path}: expected no prompt of the split 'test', which is for evaluation, got {len(seen)}, such as "
            f"{seen[0]!r}; leave them out."
        )


def reward_functions(recipe: Recipe, task: Task, stops: Collection[int]) -> list[RecordReward]:
    """The rewards of a recipe in the order of their weights, each with a name of its own in the logs.

    Args:
        recipe: Its `rewards`.
        task: Whose quality the entry `quality` is.
        stops: Token ids that end a response.

    Returns:
        Callables for `reward_funcs`.

    Raises:
        DQOError: A reward that cannot be loaded.
    """
    functions: list[RecordReward] = []
    for entry in read_entries(recipe.rewards):
        if entry.reward == QUALITY:
            function: RecordReward = TaskReward(task, stops)
        else:
            reward = load_reward(entry, recipe.output_dir)
            function = RecordReward(reward, stops, reward.__name__)
        same = sum(other.__name__.split("_#")[0] == function.__name__ for other in functions)
        if same:
            function.__name__ += f"_#{same + 1}"
        functions.append(function)
    return functions


class PromptsDigest:
    """What a run is trained on, by which a resume notices that the data are no longer those of its checkpoint.

    Args:
        prompts: In the order of the data.
    """

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        digest = hashlib.sha256()
        for prompt in prompts:
            digest.update(encode_record(prompt).encode("utf-8", "surrogatepass") + b"\n")
        self._digest = digest.hexdigest()

    def state(self) -> str:
        """The digest."""
        return self._digest

    def load(self, state: str) -> None:
        """Compare with the digest in a checkpoint.

        Args:
            state: What `state()` returned.

        Raises:
            DataError: They differ.
        """
        if state != self._digest:
            raise DataError(
                "data: expected the prompts, references and meta that the run was trained on so far, got others; put "
                "the old data back, or start anew in another output_dir."
            )


def prompt_lengths(prompts: Sequence[Prompt], tokenizer: "PreTrainedTokenizerBase", recipe: Recipe) -> list[int]:
    """Tokens of each prompt as the policy gets it, chat template included.

    Args:
        prompts: N prompts.
        tokenizer: The policy's.
        recipe: Says what stands before a prompt and what the chat template is told.

    Returns:
        N counts.
    """
    options = recipe.config.chat_template_kwargs
    texts = [rendered(prompt.prompt, tokenizer, recipe.system_prompt, options) for prompt in prompts]
    ids = tokenizer(texts, add_special_tokens=not tokenizer.chat_template, verbose=False)["input_ids"]
    return [len(row) for row in ids]


def check_lengths(
    prompts: Sequence[Prompt], tokenizer: "PreTrainedTokenizerBase", room: int | None, recipe: Recipe
) -> list[int]:
    """Refuse a prompt that leaves no room for a response in the model's context.

    Args:
        prompts: What to train on.
        tokenizer: The policy's.
        room: Positions that the policy has; None where it does not say.
        recipe: Says what stands before a prompt and how long a response may be.

    Returns:
        Tokens of each prompt.

    Raises:
        DataError: Naming the longest prompt.
    """
    lengths = prompt_lengths(prompts, tokenizer, recipe)
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    most = recipe.config.max_completion_length
    if room and lengths[longest] + most > room:
        raise DataError(
            f"prompt {prompts[longest].id!r}: expected at most {room} tokens with the response, the context of the "
            f"model, got {lengths[longest]} and up to {most} of the response; shorten the "
            "prompt (some tasks have an option for it) or lower trainer.max_completion_length."
        )
    return lengths


# What a user should know before a run: what was left out of the data, and settings that do not do as they say.

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
        remedies.append("embed the answer span only (a task whose answer_span cuts)")
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
    if not config.alpha_moves or not config.diversity_spec().signal.acts_on_reward:
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
