"""From the rows of a verl batch to groups of responses, and from shaped rewards back to tokens.

A row's key is `{uid}_{session}_{output}`: uid names the prompt, session one response to it, output one of the
sequences that the response was cut into (one, unless an agent loop returns several). Rows come in any order, groups in
any size, and padding rows are told by their tag.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dqo.core.groups import by_id
from dqo.errors import RewardError
from dqo.integrations.verl.scoring import Group, ScoredGroup


def group_rows(keys: Sequence[str], tags: Sequence[dict[str, Any]]) -> list[list[list[int]]]:
    """Rows of each session of each prompt, padding left out.

    Args:
        keys: N row keys.
        tags: N row tags.

    Returns:
        P groups of sessions; a session is its rows, the final output last, which is the one that is scored.
    """
    real = [row for row, tag in enumerate(tags) if not tag.get("is_padding", False)]
    parts = {row: keys[row].rsplit("_", 2) for row in real}
    groups = []
    for members in by_id([parts[row][0] for row in real]).values():
        rows = [real[member] for member in members]
        sessions = by_id([parts[row][1] for row in rows]).values()
        groups.append([sorted((rows[i] for i in session), key=lambda row: int(parts[row][2])) for session in sessions])
    return groups


def read_group(sessions: list[list[int]], keys: Sequence[str], texts: Mapping[int, str], scores: list[Tensor]) -> Group:
    """Texts and task rewards of a group's sessions.

    Args:
        sessions: rows of each session, the final output last.
        keys: N row keys, for messages.
        texts: response text of each row.
        scores: N rows of task reward by token, (T_row,).

    Returns:
        The group; a text is that of all rows of the session, a reward the sum over the tokens of its final row.

    Raises:
        RewardError: a reward is NaN or infinite; names the row.
    """
    rewards = [scores[session[-1]].double().sum().item() for session in sessions]
    for session, reward in zip(sessions, rewards, strict=True):
        if not torch.isfinite(torch.tensor(reward)):
            raise RewardError(
                f"Expected a finite task reward for every response, row {keys[session[-1]]} has {reward}, which would "
                "spoil the advantages of its whole group; mend the reward function."
            )
    written = ["\n".join(str(texts[row]) for row in session if texts[row].strip()) for session in sessions]
    return Group(written, rewards, [keys[session[-1]] for session in sessions])


def add_credit(
    scores: list[Tensor],
    masks: list[Tensor],
    groups: list[list[list[int]]],
    found: list[ScoredGroup],
    read: list[Group],
) -> list[Tensor]:
    """Task reward by token with diversity's part on the last token that the policy wrote.

    verl writes a reward on the last token even where it is masked (a response that ends in a tool's output), and GAE
    drops what lies on masked tokens. A row without any token of the policy gets nothing.

    Args:
        scores: N rows of task reward by token, (T_row,).
        masks: N rows, 1 where the policy wrote the token, (T_row,).
        groups: P groups of sessions of rows.
        found: P scored groups.
        read: P groups as they were scored.

    Returns:
        N rows (T_row,) float32; the rows of a session all get the session's part, as verl does with its reward.
    """
    shaped = [row.clone().float() for row in scores]
    for sessions, after, before in zip(groups, found, read, strict=True):
        for session, new, old in zip(sessions, after.shaped, before.rewards, strict=True):
            for row in session:
                written = masks[row].nonzero()
                if len(written):
                    shaped[row][written[-1, 0]] += new - old
    return shaped
