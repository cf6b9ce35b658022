"""A reward function whose every mistake is told as one sentence that names the row."""

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from decimal import Decimal
from numbers import Real
from typing import Any

from dqo.errors import DQOError, RewardError
from dqo.response import completion_text

_ARGUMENTS = "end its arguments with **columns, and give one that is not always there a default"
_SHOWN = 80  # characters of a completion in a message
_OVERFLOWS = 1e308  # a double ends a little above


class CheckedReward:
    """Call a reward function and check what it returns; NaN never reaches an advantage.

    An asynchronous function (or callable object) gives an asynchronous wrapper, which is how TRL tells them apart.
    The wrapper can be pickled if the function can.

    Args:
        fn: Callable in TRL's convention: keyword arguments `prompts`, `completions` and columns, each with N rows,
            to N numbers, or None for a completion that cannot be scored.

    Raises:
        RewardError: At once, a function that does not take `prompts` and `completions`. When called: the function
            raised, or returned the wrong count, something that is no number, NaN or infinity. An error of dqo's own
            that it raised passes unchanged.
    """

    def __new__(cls, fn: Callable[..., Any]) -> "CheckedReward":
        """An instance of the asynchronous subclass for an asynchronous function."""
        is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)
        return super().__new__(_AsyncCheckedReward if is_async else cls)

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn
        self.__name__ = getattr(fn, "__name__", type(fn).__name__)
        self._check_signature()

    def __reduce__(self) -> tuple[type, tuple[Callable[..., Any]]]:
        return CheckedReward, (self.fn,)

    def __call__(self, *, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Rewards of N completions, each a finite float or None."""
        with _batch_told(prompts, completions, columns):
            try:
                rewards = self.fn(prompts=prompts, completions=completions, **columns)
            except Exception as error:
                raise self._raised(error, completions) from error
            return self._checked(rewards, completions)

    def check_columns(self, columns: Sequence[str]) -> None:
        """Refuse a function that asks for a column which there is not, or takes fewer than there are, before a rollout.

        Args:
            columns: Names of what it is called with beside `prompts` and `completions`.

        Raises:
            RewardError: Names what there is.
        """
        try:
            signature = inspect.signature(self.fn)
            signature.bind(prompts=[], completions=[], **{column: [] for column in columns})
        except TypeError as error:
            raise RewardError(
                f"reward function {self.__name__!r}: expected one that can be called with prompts, completions, "
                f"{', '.join(columns)}, got {signature} ({error}); {_ARGUMENTS}, or read it from the columns there are."
            ) from None
        except ValueError:  # of a builtin
            return

    def _check_signature(self) -> None:
        """Refuse what could never be called, at once and not after the first rollout."""
        try:
            signature = inspect.signature(self.fn)
        except (ValueError, TypeError):  # of a builtin, or of something that is no function: the call will tell
            return
        try:
            signature.bind_partial(prompts=[], completions=[])
        except TypeError as error:
            raise RewardError(
                f"reward function {self.__name__!r}: expected the arguments (prompts, completions, **columns), got "
                f"{signature} ({error}); change its signature."
            ) from None

    def _raised(self, error: Exception, completions: Sequence[Any]) -> DQOError:
        if isinstance(error, DQOError):
            return error
        first = f"; its first completion was {_shown(completions[0])}" if completions else ""
        told = f"reward function {self.__name__!r} raised {type(error).__name__} ({error})"
        frames = traceback.extract_tb(error.__traceback__)[1:]  # without the call here
        if not frames and isinstance(error, TypeError):  # it was not entered
            return RewardError(f"{told}; {_ARGUMENTS}.")
        place = f" in {frames[-1].filename}, line {frames[-1].lineno}," if frames else ""
        return RewardError(
            f"{told}{place} on a batch of {len(completions)}{first}; mend it, or return None for what it cannot score."
        )

    def _checked(self, rewards: Any, completions: Sequence[Any]) -> list[float | None]:
        N = len(completions)
        flat = getattr(rewards, "ndim", 1) == 1  # (N, 1) is one number too many, or a mean that was forgotten
        try:
            if not flat or isinstance(rewards, (Mapping, Set, str, bytes)):  # their keys, or letters, are no rewards
                raise TypeError
            rewards = list(rewards)
        except TypeError:
            got = type(rewards).__name__ if flat else f"a {type(rewards).__name__} of shape {tuple(rewards.shape)}"
            raise RewardError(
                f"reward function {self.__name__!r}: expected a list of {N} numbers, got "
                f"{got}; return one number for each completion."
            ) from None
        if len(rewards) != N:
            raise RewardError(
                f"reward function {self.__name__!r}: expected {N} rewards, one for each completion, got "
                f"{len(rewards)}; return None for a completion that cannot be scored instead of leaving it out."
            )
        return [self._number(row, reward, completions[row]) for row, reward in enumerate(rewards)]

    def _number(self, row: int, reward: Any, completion: Any) -> float | None:
        if reward is None:
            return None
        number = finite_number(reward)
        if number is not None:
            return number
        raise RewardError(
            f"reward function {self.__name__!r}: expected a finite number for row {row}, got {_described(reward)} for "
            f"the completion {_shown(completion)}; return None for a completion that cannot be scored."
        )


class _AsyncCheckedReward(CheckedReward):
    async def __call__(
        self, *, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """Rewards of N completions, each a finite float or None."""
        with _batch_told(prompts, completions, columns):
            try:
                rewards = await self.fn(prompts=prompts, completions=completions, **columns)
            except Exception as error:
                raise self._raised(error, completions) from error
            return self._checked(rewards, completions)


@contextmanager
def _batch_told(prompts: Sequence[Any], completions: Sequence[Any], columns: dict[str, Any]) -> Iterator[None]:
    """Gives a RewardError the rows that the function was called with, those of the innermost function."""
    try:
        yield
    except RewardError as error:
        if error.batch is None:
            N = len(completions)
            # what the host hands over beside columns (its state, ways to log) belongs to no row
            lists = {name: values for name, values in columns.items() if isinstance(values, list | tuple)}
            rows = {"prompts": prompts, "completions": completions} | lists
            rows = {name: values for name, values in rows.items() if len(values) == N}
            error.batch = [{"row": i} | {name: values[i] for name, values in rows.items()} for i in range(N)]
        raise


def finite_number(reward: Any) -> float | None:
    """Reads a reward, of whatever kind of number.

    Args:
        reward: of Python, `decimal`, `fractions`, or a scalar of numpy or torch.

    Returns:
        The number; None for what is no number, masked, not finite, or larger than a float holds.
    """
    if hasattr(reward, "item") and getattr(reward, "ndim", None) == 0:  # a scalar of torch or numpy
        if getattr(reward, "mask", False):  # item() would be 0
            return None
        reward = reward.item()
    if not isinstance(reward, (Real, Decimal)):
        return None
    try:
        number = float(reward)
    except (ValueError, OverflowError):  # a signalling NaN, a fraction or an integer of 400 digits
        return None
    return number if abs(number) < _OVERFLOWS else None  # false for NaN


def _described(reward: Any) -> str:
    """A reward that is no number, by its shape where it has one."""
    if shape := getattr(reward, "shape", ()):
        return f"a {type(reward).__name__} of shape {tuple(shape)}"
    return repr(reward.item() if hasattr(reward, "item") and not getattr(reward, "mask", False) else reward)


def _shown(completion: Any) -> str:
    text = completion_text(completion).sampled
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
