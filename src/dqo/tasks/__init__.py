"""Tasks: where prompts come from, which text of a response is embedded, and how good a response is.

A task is any object with the five members of `Task`; a row of `TASKS` names its class, which is imported on first use,
so that looking up one name loads the packages of no other. docs/guides/adding.md says how to add one.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from dqo.errors import RecipeError
from dqo.files.records import Prompt
from dqo.settings.checking import build

if TYPE_CHECKING:
    from dqo.embedders import Embedder, OwnEmbedder

TASKS = {
    "concepts": "dqo.tasks.concepts:ConceptsTask",
    "cities": "dqo.tasks.cities:CitiesTask",
    "countdown": "dqo.tasks.countdown:CountdownTask",
    "kinds": "dqo.tasks.kinds:KindsTask",
    "gsm8k": "dqo.tasks.gsm8k:Gsm8kTask",
    "dolly": "dqo.tasks.dolly:DollyTask",
    "cnn_dailymail": "dqo.tasks.cnn_dailymail:CnnDailymailTask",
    "commongen": "dqo.tasks.commongen:CommonGenTask",
    "jsonl": "dqo.tasks.jsonl:JsonlTask",
}


# As an encoder in a recipe and on the command line: the features of the task at hand.
OWN_FEATURES = "task"


class Task(Protocol):
    """What training and evaluation ask of a task.

    A task may have more, which is looked up by name: `notes` (list[str], shown before a run), `counts()` (name ->
    number, logged beside its quality), `outcome_only` (quality tells right from wrong and nothing else), `cuts_span`
    (`answer_span` leaves out what follows the answer), `features(responses)` (N answer spans -> (N, D) rows whose
    cosine says how alike they are, zeros for no answer), which is the encoder "task", and for the evaluation to count
    distinct right answers `answer_key(prompt, response)` (which right answer a response is, as text that is equal for
    the same one; None where it is wrong) and `right_answers(prompt)` (the key of every right answer there is -> its
    family, such as how it begins; none where they are not known).

    Attributes:
        name: The name in recipes and logs.
        max_completion_length: Tokens a response may have, a sensible default of the task.
    """

    name: str
    max_completion_length: int

    def prompts(self, split: str) -> list[Prompt]:
        """Lists the prompts of "train", "dev" or "test": disjoint, and the same in every process."""
        ...

    def answer_span(self, response: str) -> str:
        """Takes the part of a response that is embedded, so that chatter around an answer earns no diversity."""
        ...

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """Scores each of the N responses in [0, 1], or None where it cannot be scored."""
        ...


def load_task(name: str, **options: Any) -> Task:
    """Builds a task by name; the models that it scores with are loaded at its first `quality` call."""
    return build("task", TASKS, name, options, extra="data")


def load_encoder(name: str, task: Task | None, **options: Any) -> "Embedder | OwnEmbedder":
    """Loads an encoder as `load_embedder` does; "task" is the task's own features, RecipeError where it has none."""
    from dqo.embedders import OwnEmbedder, load_embedder

    if name != OWN_FEATURES:
        return load_embedder(name, **options)
    if not hasattr(task, "features"):
        raise RecipeError(
            f"encoder {name!r}: expected a task with features of its own, such as countdown, got "
            f"{repr(task.name) if task else 'no task'}; choose another encoder."
        )
    return OwnEmbedder(task.features, name)


def option_flags(options: Mapping[str, Any]) -> list[str]:
    """Writes a task's options as flags of `dqo eval`: two entries per option."""
    # As JSON, text in quotes: the flags are read as YAML, where bare text loses its line breaks and what stands behind
    # a "#", or becomes a mapping or a number.
    return [
        part
        for name, value in options.items()
        for part in ("--task-option", f"{name}={json.dumps(value, ensure_ascii=False)}")
    ]
