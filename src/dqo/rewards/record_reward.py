"""A reward of a recipe, fed from the column `record`, and what is worth counting about the responses it sees.

The column holds a prompt as one JSON string: strings have the same Arrow schema whatever lies in `meta`.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dqo.records import Prompt
from dqo.response import Response, completion_text
from dqo.rewards.checked import CheckedReward


class RecordReward:
    """A reward function called with the texts, references and meta of the dataset's records.

    Args:
        reward: Called with lists of N entries as keywords: `prompts` (str), `completions` (`dqo.response.Response`: the
            text without reasoning traces, with `sampled` beside it), `reference`, `meta`, `record` and `ended` (bool).
        eos_token_ids: Ids one of which ends a completion that was not cut off at the length limit.
        name: Its column in the logs.
    """

    def __init__(self, reward: CheckedReward, eos_token_ids: Collection[int], name: str):
        self.__name__ = name
        self.reward = reward
        self.counting: Any = reward.fn  # perhaps with a method `counts`
        self.eos_token_ids = frozenset(eos_token_ids)

    def __call__(
        self,
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        record: Sequence[str],
        **columns: Any,
    ) -> list[float | None]:
        """Rewards of N completions.

        Args:
            prompts: As TRL passes them; `record` is used instead.
            completions: Strings, or lists of chat messages.
            completion_ids: Token ids of each completion, the end-of-sequence id included where it was sampled.
            record: The column of encoded prompts.
            **columns: Whatever else TRL passes.

        Returns:
            N finite numbers, None where a completion cannot be scored.
        """
        rows = [decode_record(row) for row in record]
        texts, ended = texts_and_ends(completions, completion_ids, self.eos_token_ids, columns)
        values = self.reward(
            prompts=[row.prompt for row in rows],
            completions=texts,
            reference=[row.reference for row in rows],
            meta=[row.meta for row in rows],
            record=list(record),
            ended=ended,
        )
        log_counts(self.counting, self.__name__, columns)
        return values


def texts_and_ends(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    eos_token_ids: Collection[int],
    columns: Mapping[str, Any],
) -> tuple[list[Response], list[bool]]:
    """Text of each completion and whether it ended by itself; the shares cut off and empty go to the host's log.

    Args:
        completions: Strings, or lists of chat messages.
        completion_ids: Token ids of each completion.
        eos_token_ids: Ids that end one.
        columns: What TRL passes; its `log_metric` is used where it is there.

    Returns:
        N texts, and N times whether the last token is one of the ids.
    """
    texts = [completion_text(completion) for completion in completions]
    ended = [bool(len(ids)) and int(ids[-1]) in eos_token_ids for ids in completion_ids]
    if texts and (log := columns.get("log_metric")):
        log("responses/truncated", 1 - sum(ended) / len(texts))
        log("responses/empty", sum(not text.strip() for text in texts) / len(texts))
    return texts, ended


def log_counts(source: Any, name: str, columns: Mapping[str, Any]) -> None:
    """What a reward has counted so far (answers too long to compare, conversations shortened), to the host's log.

    Args:
        source: Perhaps with a method `counts` that returns name -> number.
        name: Of the reward; "rewards/<name>/" stands before each number's name.
        columns: What TRL passes; its `log_metric` is used where it is there.
    """
    log, counts = columns.get("log_metric"), getattr(source, "counts", None)
    if log and counts:
        for what, value in counts().items():
            log(f"rewards/{name}/{what}", float(value))


def encode_record(prompt: Prompt) -> str:
    """A prompt as the JSON string that goes into the column `record`.

    Args:
        prompt: The prompt.

    Returns:
        One line of JSON.
    """
    return json.dumps(asdict(prompt), ensure_ascii=False)


def decode_record(record: str) -> Prompt:
    """The prompt written by `encode_record`.

    Args:
        record: One line of JSON.

    Returns:
        The prompt.
    """
    return Prompt(**json.loads(record))
