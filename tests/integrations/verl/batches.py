"""Batches as verl leaves them in TransferQueue when it is about to compute advantages, and what must come of them."""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import torch

from dqo.embedders.local import HashedEmbedder

ENCODER = "hashed:64"
ALPHA = 0.5
_partitions = itertools.count()


@dataclass
class Row:
    """One row: a response in words, the task reward of it, and how many of its last tokens a tool wrote."""

    uid: str
    session: int
    words: str
    score: float
    tool_tail: str = ""
    padding: bool = False
    output: int = 0
    prompt: str = "the dog"
    values: list[float] = field(default_factory=list)

    @property
    def key(self):
        return f"{self.uid}_{self.session}_{self.output}"

    @property
    def mask(self):
        n, tail = len(self.words.split()), len(self.tool_tail.split())
        return [0] * n if self.padding else [1] * n + [0] * tail

    def token_scores(self):
        """verl writes the reward on the last token, masked or not."""
        return [0.0] * (len(self.mask) - 1) + [self.score]


def mixed_batch():
    """Two prompts with rows out of order, the second one short of a row; copies; a tool's tail; two padding rows."""
    return [
        Row("b", 0, "red bird sings", 1.0),
        Row("a", 2, "the dog runs fast", 0.0),
        Row("padX", 0, "tree", 0.0, padding=True),
        Row("a", 0, "the dog runs fast", 1.0),
        Row("b", 2, "old house near river", 0.25, tool_tail="cat sleeps"),
        Row("a", 3, "green tree", 1.0),
        Row("padX", 1, "tree", 0.0, padding=True),
        Row("b", 1, "red bird sings", 0.5),
        Row("a", 1, "small cat eats", 0.0),
    ]


def put(tq, tokenizer, rows):
    """Write rows to TransferQueue as verl does; returns the batch's metadata."""
    from tensordict import TensorDict
    from transfer_queue import KVBatchMeta
    from verl.utils import tensordict_utils as tu

    generator = torch.Generator().manual_seed(len(rows))
    for row in rows:
        row.values = torch.randn(len(row.mask), generator=generator).tolist()

    def nested(lists, dtype):
        return torch.nested.as_nested_tensor([torch.tensor(x, dtype=dtype) for x in lists], layout=torch.jagged)

    ids = [tokenizer(f"{row.words} {row.tool_tail}").input_ids for row in rows]
    assert [len(x) for x in ids] == [len(row.mask) for row in rows], "one token a word"
    fields = {
        "prompts": nested([tokenizer(row.prompt).input_ids for row in rows], torch.int64),
        "responses": nested(ids, torch.int64),
        "response_mask": nested([row.mask for row in rows], torch.int64),
        "rm_scores": nested([row.token_scores() for row in rows], torch.float32),
        "values": nested([row.values for row in rows], torch.float32),
    }
    data = tu.get_tensordict({**fields, "uid": [row.uid for row in rows]})
    assert isinstance(data, TensorDict)
    partition = f"test{next(_partitions)}"
    keys, tags = [row.key for row in rows], [{"is_padding": row.padding} for row in rows]
    tq.kv_batch_put(keys=keys, partition_id=partition, fields=data, tags=tags)
    return KVBatchMeta(keys=keys, tags=tags, partition_id=partition)


def read(tq, batch, name):
    """N rows of a field, as lists of floats."""
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=[name])
    return [row.float().tolist() for row in data[name].unbind()]


def brute_force_credits(texts):
    """What the log-volume loses without each text: G + 1 determinants; 0 for a text that is alone."""
    if len(texts) == 1:
        return [0.0]
    E = HashedEmbedder(64)(texts).double().numpy()

    def volume(keep):
        return math.log(np.linalg.det(np.eye(len(keep)) + E[keep] @ E[keep].T))

    everyone = list(range(len(texts)))
    return [volume(everyone) - volume([j for j in everyone if j != i]) for i in everyone]


def expected_rewards(rows, alpha=ALPHA):
    """Reward of each row, diversity's part apart: (task, part), both by row; padding has neither."""
    parts = [0.0] * len(rows)
    for uid in {row.uid for row in rows if not row.padding}:
        members = [i for i, row in enumerate(rows) if row.uid == uid]
        for i, credit in zip(members, brute_force_credits([rows[i].words for i in members]), strict=True):
            parts[i] = alpha * credit
    return [row.score for row in rows], parts


def expected_grpo(rows, alpha=ALPHA):
    """(score - mean of the prompt's scores) / (std + 1e-6) on every token of the policy."""
    task, part = expected_rewards(rows, alpha)
    total = [t + p for t, p in zip(task, part, strict=True)]
    advantages = []
    for row, value in zip(rows, total, strict=True):
        group = [t for other, t in zip(rows, total, strict=True) if other.uid == row.uid]
        scaled = (value - np.mean(group)) / (np.std(group, ddof=1) + 1e-6)
        advantages.append([scaled * m for m in row.mask])
    return advantages


def expected_rloo(rows, alpha=ALPHA):
    """Score minus the mean of the others' scores, on every token of the policy."""
    task, part = expected_rewards(rows, alpha)
    total = [t + p for t, p in zip(task, part, strict=True)]
    advantages = []
    for i, row in enumerate(rows):
        others = [t for j, (other, t) in enumerate(zip(rows, total, strict=True)) if other.uid == row.uid and j != i]
        advantages.append([(total[i] - np.mean(others)) * m for m in row.mask])
    return advantages


def expected_gae_returns(rows, alpha=ALPHA):
    """Returns by token at gamma = lambda = 1: the reward to come, on the tokens of the policy.

    The task reward counts where verl wrote it, on the last token, and is lost there if that token is masked; the
    diversity part counts always.
    """
    returns = []
    for row, part in zip(rows, expected_rewards(rows, alpha)[1], strict=True):
        earned = part + (row.score if row.mask[-1] else 0.0)
        returns.append([earned * m for m in row.mask])
    return returns
