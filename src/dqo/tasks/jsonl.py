"""A user's own prompts and reward function as a task."""

import inspect
from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, JsonValue

from dqo.errors import DataError, RecipeError
from dqo.files.records import Prompt, PromptLine, read_prompts
from dqo.models.weights import first_words
from dqo.rewards.loading import checked_span, import_function, import_reward
from dqo.settings.checking import check
from dqo.tasks.splits import Splits, SplitTask, distinct_ids

# A number is an answer written without quotes.
_Answer = Annotated[str, Field(strict=False, coerce_numbers_to_str=True)]


class _HubRow(PromptLine):
    reference: _Answer | list[_Answer]
    meta: dict[str, JsonValue]


class JsonlTask(SplitTask):
    """Prompts from JSON-lines files or data sets of the hub, scored by a function of the user.

    A split is a file, a line `{"prompt", "reference", "meta"}` per prompt, or the hub name of a data set with a column
    `prompt`, of text or messages: "owner/name", or "owner/name:split"; otherwise the hub split train, validation or
    test is read. There a number in the column `reference` is taken as text; other columns, which become `meta`, must
    be JSON.

    The reward function is called as

        fn(prompts: list[str], completions: list[str], *, reference: list, meta: list[dict], ended: list[bool])

    with N rows in each, and returns N numbers, best in [0, 1], None where a completion cannot be scored.

    Args:
        reward: "pkg.module.function" or "path/to/file.py:function".
        train: Where the prompts to train on are.
        dev: Where those to choose settings on are; none if not given.
        test: Where those to report on are; none if not given.
        max_completion_length: Tokens a response may have.
        answer_span: Function response -> the part whose diversity counts, such as what follows "####", named like the
            reward; the whole response if not given.
    """

    name = "jsonl"

    def __init__(
        self,
        reward: str,
        train: str | None = None,
        dev: str | None = None,
        test: str | None = None,
        max_completion_length: Annotated[int, Field(ge=1)] = 256,
        answer_span: str | None = None,
    ):
        self.max_completion_length = max_completion_length
        self._reward = import_reward(reward, columns=("reference", "meta", "ended"))
        if inspect.iscoroutinefunction(type(self._reward).__call__):
            raise RecipeError(
                f"reward {reward!r}: expected a plain function, got an asynchronous one; define it with def."
            )
        span = None if answer_span is None else import_function(answer_span, "answer_span", "response")
        self.cuts_span, self._span = span is not None, checked_span(span)
        self._sources = {"train": train, "dev": dev, "test": test}

    @cached_property
    def splits(self) -> Splits:
        """Reads the prompts of each split that has a source; DataError where two splits share one."""
        read = {split: load_prompts(source, split) for split, source in self._sources.items() if source is not None}
        for one, other in combinations(read, 2):
            texts = {prompt.prompt for prompt in read[one]}
            common = [prompt.id for prompt in read[other] if prompt.prompt in texts]
            if common:
                raise DataError(
                    f"splits {one!r} and {other!r}: expected no common prompt, but {len(common)} of {other!r} are also "
                    f"in {one!r}, such as {common[0]!r}; remove them from one of them."
                )
        return distinct_ids(read)

    def prompts(self, split: str) -> list[Prompt]:
        """Lists the prompts of one split; DataError where it has no source."""
        if self._sources.get(split, "") is None:
            raise DataError(
                f"task 'jsonl': expected a file for the split {split!r}, got none; set the option `{split}`."
            )
        return super().prompts(split)

    def answer_span(self, response: str) -> str:
        """Takes the part whose diversity counts: the user's function of the response, or all of it."""
        return self._span(response).strip()

    def quality(self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool]) -> list[float | None]:
        """Calls the reward function and checks what it returns; RewardError names function and row of a bad value."""
        return self._reward(
            prompts=[prompt.prompt for prompt in prompts],
            completions=list(responses),
            reference=[prompt.reference for prompt in prompts],
            meta=[prompt.meta for prompt in prompts],
            ended=list(ended),
        )


def load_prompts(source: str, split: str = "test", setting: str | None = None) -> list[Prompt]:
    """Reads the prompts of a file, or of a data set of the hub, "owner/name" or "owner/name:split".

    `split` is that of a data set that names none. `setting`, else the split, is what messages name.
    """
    setting = setting or split
    if Path(source).is_file():
        return read_prompts(source)
    if source.endswith((".jsonl", ".json")) or source.count("/") != 1:
        raise DataError(
            f"{setting}: expected an existing JSON-lines file or the hub name 'owner/name' of a data set, got "
            f"{source!r} and no such file exists; check the path."
        )
    name, _, hub_split = source.partition(":")
    return _from_hub(name, hub_split or {"dev": "validation"}.get(split, split), setting)


def _from_hub(name: str, hub_split: str, setting: str) -> list[Prompt]:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split=hub_split)
    except Exception as error:
        raise DataError(
            f"{setting}: expected the file or data set {name!r} (split {hub_split!r}), but no such file exists and the "
            f"hub said no ({first_words(error)}); check the name, its splits and the network."
        ) from error
    if "prompt" not in rows.column_names:
        raise DataError(
            f"{setting}: expected a column 'prompt' in the data set {name!r}, got {', '.join(rows.column_names)}; "
            "write a JSON-lines file with the column renamed."
        )
    return [_hub_prompt(row, name, hub_split, index) for index, row in enumerate(rows)]


def _hub_prompt(row: dict[str, Any], name: str, hub_split: str, index: int) -> Prompt:
    """One row, every column such that the responses to it can be written and read again."""
    text, reference, meta = row.pop("prompt"), row.pop("reference", None), {"id": f"{name}-{hub_split}-{index}"}
    line = {"prompt": text, "reference": [] if reference in (None, "") else reference, "meta": row | meta}
    found = check(_HubRow, line, f"data set {name!r} (split {hub_split!r}), row {index}", error=DataError)
    return Prompt(meta["id"], found.prompt, found.reference, found.meta)
