"""Calls reward functions: checks what they return, and feeds them the columns of a data set."""

import asyncio
import inspect
import math
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from dqo.core import slack, tied_groups
from dqo.errors import DQOError, RewardError
from dqo.files.records import Prompt
from dqo.models.chat import Response, completion_text

# Characters of a value or completion in a message.
_SHOWN = 80

Row = tuple[Prompt, str, bool]  # a prompt, a response to it, and whether that ended by itself


class CheckedReward:
    """Calls a reward function and checks what it returns; NaN never reaches an advantage.

    An asynchronous function (or callable object) gives an asynchronous wrapper, which is how TRL tells them apart.
    The wrapper can be pickled if the function can.

    Args:
        fn: Callable in TRL's convention: keyword arguments `prompts`, `completions` and columns, each with N rows,
            to N numbers, or None for a completion that cannot be scored.
        options: Further keyword arguments of every call.

    Raises:
        RewardError: When called: the function raised, or returned the wrong count, something that is no number, NaN or
            infinity. An error of dqo's own that it raised passes unchanged.
    """

    def __new__(cls, fn: Callable[..., Any], options: Mapping[str, Any] | None = None) -> "CheckedReward":
        """An instance of the asynchronous subclass for an asynchronous function."""
        is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)
        return super().__new__(_AsyncCheckedReward if is_async else cls)

    def __init__(self, fn: Callable[..., Any], options: Mapping[str, Any] | None = None):
        self.fn, self.options = fn, dict(options or {})
        self.__name__ = getattr(fn, "__name__", type(fn).__name__)

    def __reduce__(self) -> tuple[type, tuple[Callable[..., Any], dict[str, Any]]]:
        return CheckedReward, (self.fn, self.options)

    def __call__(self, *, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Rewards of N completions, each a finite float or None."""
        with self._explaining(prompts, completions, columns):
            rewards = self.fn(prompts=prompts, completions=completions, **columns, **self.options)
            return self._checked(rewards, completions)

    def _error(self, text: str) -> RewardError:
        return RewardError(f"reward function {self.__name__!r}: {text}")

    @contextmanager
    def _explaining(
        self, prompts: Sequence[Any], completions: Sequence[Any], columns: dict[str, Any]
    ) -> Iterator[None]:
        """Makes an error of the function one sentence, and attaches the rows that it was called with."""
        try:
            yield
        except DQOError as error:
            if isinstance(error, RewardError):
                error.batch = error.batch or _rows(prompts, completions, columns)
            raise
        except Exception as error:
            failure = self._error(_failure(error, completions))
            failure.batch = _rows(prompts, completions, columns)
            raise failure from error

    def _checked(self, rewards: Any, completions: Sequence[Any]) -> list[float | None]:
        N, shape = len(completions), getattr(rewards, "shape", None)
        # Letters, or keys of a mapping, are no rewards; (N, 1) is one number too many, or a mean that was forgotten.
        is_list = isinstance(rewards, (list, tuple)) or (shape is not None and len(shape) == 1)
        if not is_list or len(rewards) != N:
            got = len(rewards) if is_list else type(rewards).__name__ + (f" of shape {tuple(shape)}" if shape else "")
            expected = f"expected a list of {N} rewards, one number for each completion, got {got}"
            raise self._error(f"{expected}; return None for a completion that cannot be scored.")
        numbers = [finite_number(reward) for reward in rewards]
        for row, (number, reward) in enumerate(zip(numbers, rewards, strict=True)):
            if number is None and reward is not None:
                got = f"{_shown(reward)} for the completion {_shown_text(completions[row])}"
                expected = f"expected a finite number for row {row}, got {got}"
                raise self._error(f"{expected}; return None for a completion that cannot be scored.")
        return numbers


class _AsyncCheckedReward(CheckedReward):
    async def __call__(
        self, *, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """Rewards of N completions, each a finite float or None."""
        with self._explaining(prompts, completions, columns):
            rewards = await self.fn(prompts=prompts, completions=completions, **columns, **self.options)
            return self._checked(rewards, completions)


def _failure(error: Exception, completions: Sequence[Any]) -> str:
    raised, last = f"raised {type(error).__name__} ({error})", traceback.extract_tb(error.__traceback__)[-1]
    if last.filename == __file__ and isinstance(error, TypeError):  # the function was not entered
        return f"{raised}; end its arguments with **columns, and give one that is not always there a default."
    first = f"; its first completion was {_shown_text(completions[0])}" if completions else ""
    batch = f"in {last.filename}, line {last.lineno}, on a batch of {len(completions)}{first}"
    return f"{raised} {batch}; fix it, or return None for what it cannot score."


def _rows(prompts: Sequence[Any], completions: Sequence[Any], columns: dict[str, Any]) -> list[dict[str, Any]]:
    """What a function was called with, row by row."""
    # What TRL hands over beside columns (its state, ways to log) belongs to no row.
    lists = {name: values for name, values in columns.items() if isinstance(values, list | tuple)}
    rows = {"prompts": prompts, "completions": completions} | lists
    N = len(completions)
    rows = {name: values for name, values in rows.items() if len(values) == N}
    return [{"row": i} | {name: values[i] for name, values in rows.items()} for i in range(N)]


def finite_number(reward: Any) -> float | None:
    """Reads any kind of number; None for what is no number, masked, not finite, or larger than a float holds."""
    # float() would read digits, take a row of one number for that number, and warn of a masked one.
    if isinstance(reward, (str, bytes)) or getattr(reward, "shape", ()) or getattr(reward, "mask", False):
        return None
    try:
        number = float(reward)
    except (TypeError, ValueError, OverflowError):  # a signalling NaN, a fraction or an integer of 400 digits
        return None
    return number if math.isfinite(number) else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _shown_text(completion: Any) -> str:
    return _shown(completion_text(completion).sampled)


def reward_records(
    reward: CheckedReward, records: Sequence[Prompt], completions: Sequence[str], ended: Sequence[bool]
) -> list[float | None]:
    """Rewards N completions by their N prompts; waits for an asynchronous function."""
    values = reward(
        prompts=[record.prompt for record in records],
        completions=completions,
        reference=[record.reference for record in records],
        meta=[record.meta for record in records],
        record=records,
        ended=ended,
    )
    return asyncio.run(values) if inspect.iscoroutine(values) else values


class Tried(NamedTuple):
    """How a reward took a few responses that it was given again, and others in their place.

    Attributes:
        noise: Standard deviation of one call, from two with the same response, in reward units.
        alike: What got the same reward as the responses in whose place it stood, in words; empty where anything got
            another.
        certain: Whether a reward that reads would have shown it: rewards differed, or there were references.
    """

    noise: float
    alike: str
    certain: bool


def try_reward(score: Callable[[Sequence[Row]], Tensor], rows: Sequence[Row], own: Tensor) -> Tried:
    """Gives a reward the responses to R prompts again, and others in their place, to see whether it reads them.

    `score` makes rewards of rows, NaN where a response cannot be scored; `own`, (R,), are those of the rows before.
    """
    # In another order: a reward that goes by the place in the batch shows as noise.
    again = score(rows[::-1]).flip(0)  # (R,)
    references = [prompt.reference if isinstance(prompt.reference, str) else "".join(prompt.reference[:1])
                  for prompt, _, _ in rows]  # fmt: skip
    kinds = {
        "the responses to other prompts": [rows[place - 1][1] for place in range(len(rows))],
        "an empty response": [""] * len(rows),
        "the references": references if any(references) else [text for _, text, _ in rows],
    }
    alike, reads = [], False
    for kind, texts in kinds.items():
        others = {i: text for i, text in enumerate(texts) if text != rows[i][1]}
        if others:
            rewards = score([(rows[i][0], Response(text), True) for i, text in others.items()])  # (others,)
            before = own[list(others)]  # (others,)
            # NaN, which nothing could score, is another answer than a number.
            same = ((rewards - before).abs() <= slack(own)) | (rewards.isnan() & before.isnan())  # (others,)
            reads |= not bool(same.all())
            alike.append(kind)
    noise = float(((own - again).square().nanmean() / 2).sqrt().nan_to_num(0.0))
    certain = "the references" in alike or not tied_groups(own[None]).item()
    listed = " and ".join(filter(None, (", ".join(alike[:-1]), *alike[-1:])))
    return Tried(noise, "" if reads else listed, certain)


class RecordReward:
    """Calls a reward function with the texts, references and meta of the prompts that a batch was drawn from.

    Args:
        reward: Called with lists of N entries as keywords: `prompts` (str), `completions` (`Response`: the text
            without reasoning traces, with `sampled` beside it), `reference`, `meta`, `record` (`Prompt`) and `ended`.
        rows: All prompts of the data set; its column `row` counts them.
        eos_token_ids: Ids one of which ends a completion that was not cut off at the length limit.
        name: Its column in the logs.
    """

    def __init__(self, reward: CheckedReward, rows: Sequence[Prompt], eos_token_ids: Collection[int], name: str):
        self.__name__ = name
        self.reward, self.rows, self.eos_token_ids = reward, rows, frozenset(eos_token_ids)

    def __call__(
        self,
        *,
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        row: Sequence[int],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Rewards N completions; N finite numbers, None where a completion cannot be scored."""
        texts = [completion_text(completion) for completion in completions]
        ended = [bool(len(ids)) and int(ids[-1]) in self.eos_token_ids for ids in completion_ids]
        records = [self.rows[place] for place in row]
        values = reward_records(self.reward, records, texts, ended)
        if log_metric and texts:
            log_metric("responses/truncated", 1 - sum(ended) / len(texts))
            log_metric("responses/empty", sum(not text.strip() for text in texts) / len(texts))
            log_counts(self.reward.fn, self.__name__, log_metric)
        return values


def log_counts(reward: Any, name: str, log_metric: Callable[[str, float], None]) -> None:
    """Logs what a reward has counted so far: answers too long to compare, conversations shortened, a judge's calls."""
    for what, value in getattr(reward, "counts", dict)().items():
        log_metric(f"rewards/{name}/{what}", float(value))


def task_quality(task: Any) -> Callable[..., list[float | None]]:
    """Makes `task.quality` a function of `completions`, `record` and `ended`, named as the task."""

    def quality(
        completions: Sequence[str], record: Sequence[Prompt], ended: Sequence[bool], **columns: Any
    ) -> list[float | None]:
        return task.quality(record, completions, ended)

    quality.__name__ = task.name
    if hasattr(task, "counts"):
        quality.counts = task.counts
    return quality
