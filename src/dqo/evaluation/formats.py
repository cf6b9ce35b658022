"""The formats of responses that other tools write: a row of `FORMATS` each, and what a row of such a file says.

A file is a sequence of rows, whatever holds them (`dqo.evaluation.responses`). A reader takes one row and returns the
`Sample` it holds: one response to a prompt or several.
"""

import ast
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from dqo.errors import DataError, choices
from dqo.evaluation.fields import (
    read_completion,
    read_content,
    read_messages,
    read_number,
    read_prompt,
    read_references,
    settings_of,
)
from dqo.models.endpoint_replies import UNKNOWN, NoAnswer, read_end, read_reply
from dqo.settings.checking import Strict, check

Row = Mapping[str, Any]
# What a column can be, and the names that are looked for where none is given.
ROLES = {
    "id": ("prompt_id", "question_id", "problem_id", "task_id", "id"),
    "prompt": ("prompt", "question", "problem", "instruction", "query", "input", "messages"),
    "response": ("response", "completion", "output", "generation", "prediction",
                 "responses", "completions", "outputs", "generations", "samples"),
    "reference": ("reference", "references", "target", "ground_truth", "gold", "answer"),
    "reward": ("reward", "rewards", "score", "scores", "correct"),
    "finish": ("finish", "finish_reason", "stop_reason"),
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """What one row says.

    Attributes:
        id: Of the prompt; None where the prompts are told apart by their texts.
        prompt: What was asked; None where the file does not say it.
        reference: Right answers, [] where there are none.
        responses: The texts, in order; fewer than were asked for where some failed.
        finish: One per response.
        rewards: One per response, None for one without; None where the row has no rewards.
        meta: What else the row says of the prompt or the response.
        sampling: How the responses were drawn, as far as the row tells, in the words of a sampling.json.
        failed: Requests without a response.
    """

    id: str | None
    prompt: str | None
    reference: str | list[str] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    finish: list[str] = field(default_factory=list)
    rewards: list[float | None] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    failed: int = 0


Reader = Callable[[Row, str, Mapping[str, str]], Sample]  # row, its place for messages, role -> column


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: As `--format` takes it.
        what: What it is, in words.
        signs: Fields that a row of it has, and together no row of a format before it.
        several: What to do for several responses per prompt.
        read: Its reader.
        columns: Role -> column, of those that are read by column.
        named: Roles whose column the user may name.
        ids: Whether its ids are those of prompts; else they may be those of samples.
    """

    name: str
    what: str
    signs: tuple[str, ...]
    several: str
    read: Reader
    columns: Mapping[str, str] = field(default_factory=dict)
    named: tuple[str, ...] = ()
    ids: bool = True

    def is_new(self, row: Row, first: Row) -> bool:
        """Tells whether a row holds responses of its own: lm-eval repeats all of them for every filter."""
        return self.read is not _lm_eval or row.get("filter") == first.get("filter")


_FILLED = Field(min_length=1)
_Call = Annotated[dict[str, Any], _FILLED]


class _LmEval(Strict, extra="ignore"):
    doc_id: int | str
    arguments: Annotated[dict[str, _Call], _FILLED] | Annotated[list[list[Any]], _FILLED]
    resps: Annotated[list[Any], _FILLED]
    target: Any = None
    doc: Any = None


def _lm_eval(row: Row, place: str, columns: Mapping[str, str]) -> Sample:
    line = check(_LmEval, row, place, error=DataError)
    calls = list(line.arguments.values()) if isinstance(line.arguments, dict) else line.arguments
    first = list(calls[0].values()) if isinstance(calls[0], dict) else calls[0]
    settings, texts = first[-1], line.resps[0]
    if not (isinstance(settings, dict) and isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise DataError(
            f"{place}: expected text that a model generated, got log-likelihoods of given choices; run a task whose "
            "`output_type` is `generate_until`."
        )
    asked = first[0]
    if isinstance(asked, list):  # the messages of a chat API, as JSON
        with suppress(ValueError, TypeError):
            asked = json.loads(*asked)
    greedy = {"temperature": 0.0} if settings.get("do_sample") is False else {}
    meta = line.doc if isinstance(line.doc, dict) else {}
    target = line.target
    if isinstance(target, str) and target.startswith("["):  # lm-eval writes a list as Python shows it
        with suppress(ValueError, SyntaxError):
            target = ast.literal_eval(target)
    known, ends = settings_of(settings) | greedy, [UNKNOWN] * len(texts)
    return Sample(
        str(line.doc_id), read_prompt(asked, place), read_references(target), texts, ends, meta=meta, sampling=known
    )


class _InspectChoice(Strict, extra="ignore"):
    message: dict[str, Any]
    stop_reason: str = UNKNOWN


class _InspectOutput(Strict, extra="ignore"):
    choices: list[_InspectChoice] = Field(default=[])


class _Inspect(Strict, extra="ignore"):
    id: int | str
    input: Any
    output: _InspectOutput
    target: Any = None
    metadata: dict[str, Any] = Field(default={})
    scores: dict[str, dict[str, Any]] | None = None


_LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}  # correct, incorrect, partly, no answer


def _inspect(row: Row, place: str, columns: Mapping[str, str]) -> Sample:
    line = check(_Inspect, row, place, error=DataError)
    found = line.output.choices
    texts = [read_content(choice.message.get("content")) for choice in found]
    scores = {name: read_number(_LETTERS.get(str(one.get("value")), one.get("value"))) for name, one in
              (line.scores or {}).items()}  # fmt: skip
    scorer = columns.get("reward")
    if scorer and scores and scorer not in scores:
        raise DataError(f"{place}: expected the scorer to be {choices(scorer, scores)}, got {scorer!r}; name that.")
    # A sample is scored once: of several choices nothing says which.
    rewards = [scores[scorer]] if len(found) == 1 and scorer in scores else None
    return Sample(
        str(line.id), read_prompt(line.input, place), read_references(line.target), texts,
        [read_end(choice.stop_reason) for choice in found], rewards, line.metadata, failed=not found,
    )  # fmt: skip


class _Batch(Strict, extra="ignore"):
    custom_id: str
    response: dict[str, Any] | None
    error: Any = None


def _batch(row: Row, place: str, columns: Mapping[str, str]) -> Sample:
    line = check(_Batch, row, place, error=DataError)
    body = (line.response or {}).get("body")
    body = body if isinstance(body, dict) else {}
    if body.get("object") == "response":  # of /v1/responses
        found = [_of_responses_api(body)]
    else:
        found = [_of_choice(choice) for choice in body.get("choices") or ()]
    answers = [one for one in found if one is not None]
    return Sample(
        line.custom_id, None, responses=[text for text, _ in answers], finish=[end for _, end in answers],
        sampling=settings_of(body), failed=len(found) - len(answers) + (not found),
    )  # fmt: skip


def _of_choice(choice: Any) -> tuple[str, str] | None:
    """Text and finish of a choice of a chat or a plain completion; None where it has no answer."""
    if isinstance(choice, dict) and isinstance(choice.get("text"), str):
        return choice["text"], read_end(choice.get("finish_reason"))
    try:
        return read_reply({"choices": [choice]})
    except NoAnswer:
        return None


def _of_responses_api(body: Row) -> tuple[str, str] | None:
    messages = [item for item in body.get("output") or () if isinstance(item, dict) and item.get("type") == "message"]
    text = "".join(read_content(message.get("content")) for message in messages)
    end = (body.get("incomplete_details") or {}).get("reason") or body.get("status")
    return (text, read_end(end)) if text else None


def of_request(row: Row, place: str) -> Sample:
    """Reads a request of an OpenAI batch: the prompt and how its responses were asked for."""
    body = row.get("body")
    asked = body.get("messages", body.get("prompt", body.get("input"))) if isinstance(body, dict) else None
    if asked is None:
        raise DataError(f"{place}: expected a request with messages, a prompt or an input in `body`, got {body!r:.80}.")
    if body.get("instructions"):
        asked = [{"role": "system", "content": body["instructions"]}, *read_messages(asked)]
    return Sample(str(row["custom_id"]), read_prompt(asked, place), sampling=settings_of(body))


def _columns(row: Row, place: str, columns: Mapping[str, str]) -> Sample:
    """A row whose columns are known: a response, or a list of them."""
    missing = [name for role, name in columns.items() if name not in row and role in ("prompt", "response")]
    if missing:
        raise DataError(f"{place}: expected the column {missing[0]!r}, got {', '.join(row)}; name it with --column.")
    given = {role: row.get(name) for role, name in columns.items()}
    several = _is_list_of_completions(given["response"])
    cells = given["response"] if several else [given["response"]]
    ends, rewards = (_parallel(given.get(role), len(cells), several) for role in ("finish", "reward"))
    kept = [i for i, cell in enumerate(cells) if cell is not None]
    others = {name: value for name, value in row.items() if name not in columns.values()}
    own = given.get("id")
    return Sample(
        None if own is None else str(own),
        read_prompt(given["prompt"], place),
        read_references(given.get("reference")),
        [read_completion(cells[i], place) for i in kept],
        [read_end(ends[i]) for i in kept],
        [read_number(rewards[i]) for i in kept] if "reward" in given else None,
        others,
        settings_of(others),
        len(cells) - len(kept) + (not cells),
    )


def _is_list_of_completions(value: Any) -> bool:
    return isinstance(value, list) and not (value and isinstance(value[0], dict) and "content" in value[0])


def _parallel(value: Any, n: int, several: bool) -> list[Any]:
    """One value for each of n responses, of a list of as many or of one value for all."""
    return value if several and isinstance(value, list) and len(value) == n else [value] * n


FORMATS = {
    one.name: one
    for one in (
        Format(
            name="lm-eval",
            what="samples of lm-evaluation-harness",
            signs=("doc_id", "arguments", "resps"),
            several="set `repeats: 10` and, under `generation_kwargs`, `do_sample: true` and `temperature: 1.0` in the "
            "task's YAML file, and run it again with --log_samples",
            read=_lm_eval,
        ),
        Format(
            name="inspect",
            what="a log of Inspect",
            signs=("id", "epoch", "input", "target", "output"),
            several="run `inspect eval` again with `--epochs 10 --temperature 1`",
            read=_inspect,
            named=("reward",),
        ),
        Format(
            name="openai-batch",
            what="the output of an OpenAI batch",
            signs=("custom_id", "response"),
            several='ask for them with `"n": 10` in the body of every request',
            read=_batch,
            ids=False,
        ),
        Format(
            name="noveltybench",
            what="generations of NoveltyBench",
            signs=("prompt", "generations"),
            several="run its inference again with `--num-generations 10`",
            read=_columns,
            columns={"id": "id", "prompt": "prompt", "response": "generations"},
            named=("reference",),
        ),
        Format(
            name="verl",
            what="rollouts of verl",
            signs=("input", "output", "gts", "step"),
            several="raise `actor_rollout_ref.rollout.n`, for a validation `actor_rollout_ref.rollout.val_kwargs.n`",
            read=_columns,
            columns={"prompt": "input", "response": "output", "reference": "gts", "reward": "score"},
            named=("reward", "id"),
        ),
        Format(
            name="trl",
            what="completions of TRL",
            signs=("step", "prompt", "completion"),
            several="raise `num_generations`",
            read=_columns,
            columns={"prompt": "prompt", "response": "completion"},
            named=("reward", "reference", "id"),
        ),
        Format(
            name="rows",
            what="rows of samples",
            signs=(),
            several="give every response to a prompt a row of its own with that prompt, or put them into a list",
            read=_columns,
            named=tuple(ROLES),
            ids=False,
        ),
    )
}


def format_of(row: Row) -> Format:
    """Finds the format of a row by the fields it has; "rows" where it is no other."""
    return next(one for one in FORMATS.values() if row.keys() >= set(one.signs))


def columns_of(form: Format, row: Row, named: Mapping[str, str], place: str) -> dict[str, str]:
    """Finds role -> column in the first row of a file of a format; `named` are the columns that the user named.

    DataError for a role that the format does not take, or a prompt or response that is not found.
    """
    if wrong := next((role for role in named if role not in form.named), None):
        takes = choices(wrong, form.named) if form.named else "none"
        raise DataError(f"{place}: expected columns of the format {form.name}: {takes}, got {wrong!r}; leave it out.")
    found = dict(form.columns)
    if form.read is _inspect and row.get("scores"):
        found["reward"] = next(iter(row["scores"]))
    if form.read is not _columns:
        return found | dict(named)
    if form.name == "rows":
        found = {role: name for role, names in ROLES.items() for name in names[::-1] if name in row}
    if form.name == "trl" and len(scores := _reward_columns(row)) == 1:
        found["reward"] = scores[0]
    found |= named
    missing = [role for role in ("prompt", "response") if role not in found]
    if missing:
        raise DataError(
            f"{place}: expected responses in a known format, got rows of {', '.join(row)}; say which column is the "
            f"{missing[0]} with --column {missing[0]}=NAME, or which format it is with --format."
        )
    return found


def _reward_columns(row: Row) -> list[str]:
    """Columns of numbers of a TRL table that are reward functions'."""
    return [name for name, value in row.items() if read_number(value) is not None and name not in ("step", "advantage")]
