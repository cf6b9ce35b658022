"""Tasks: where prompts come from, which text of a response is embedded, and how good a response is.

A task is any object with the five members of `Task`; a row of `TASKS` names its class, which is imported on first use,
so that looking up one name loads the packages of no other. docs/adding.md says how to add one.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dqo.files.records import Prompt
from dqo.settings.checking import build

TASKS = {
    "concepts": "dqo.tasks.concepts:ConceptsTask",
    "cities": "dqo.tasks.cities:CitiesTask",
    "countdown": "dqo.tasks.countdown:CountdownTask",
    "gsm8k": "dqo.tasks.gsm8k:Gsm8kTask",
    "dolly": "dqo.tasks.dolly:DollyTask",
    "cnn_dailymail": "dqo.tasks.cnn_dailymail:CnnDailymailTask",
    "commongen": "dqo.tasks.commongen:CommonGenTask",
    "jsonl": "dqo.tasks.jsonl:JsonlTask",
}


class Task(Protocol):
    """What training and evaluation ask of a task.

    A task may have more, which is looked up by name: `notes` (list[str], shown before a run), `counts()` (name ->
    number, logged beside its quality), `outcome_only` (quality tells right from wrong and nothing else), `cuts_span`
    (`answer_span` leaves out what follows the answer), and `answer_key(prompt, response)` (which right answer a
    response is, as text that is equal for the same one; None where it is wrong), for the evaluation to count distinct
    right answers.

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


def option_flags(options: Mapping[str, Any]) -> list[str]:
    """Writes a task's options as flags of `dqo eval`: two entries per option."""
    # As JSON, text in quotes: the flags are read as YAML, where bare text loses its line breaks and what stands behind
    # a "#", or becomes a mapping or a number.
    return [
        part
        for name, value in options.items()
        for part in ("--task-option", f"{name}={json.dumps(value, ensure_ascii=False)}")
    ]
