"""A reward of a recipe, fed from the column `record`, and what is worth counting about the responses it sees."""

from collections.abc import Collection, Sequence
from typing import Any

from dqo.rewards.checked import CheckedReward
from dqo.rewards.task_reward import decode_record, log_counts, texts_and_ends


class RecordReward:
    """A reward function called with the texts, references and meta of the dataset's records.

    Args:
        reward: Called with lists of N entries as keywords: `prompts` (str), `completions` (str), `reference`, `meta`,
            `record` and `ended` (bool).
        eos_token_ids: Ids one of which ends a completion that was not cut off at the length limit.
        name: Its column in the logs.
    """

    def __init__(self, reward: CheckedReward, eos_token_ids: Collection[int], name: str):
        self.__name__ = name
        self.reward = reward
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
        log_counts(self.reward.fn, self.__name__, columns)
        return values
