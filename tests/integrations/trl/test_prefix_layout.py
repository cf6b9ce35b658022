"""Where tokens go when rows share a prompt, how many completions a row holds, and how rows of a group meet."""

import pytest
import torch

from dqo.integrations.trl.fast import packing
from dqo.integrations.trl.fast.packing import IGNORED, pack_rows, share_rows, split_groups
from dqo.integrations.trl.fast.sharing import regroup

PAD = 0


def test_prompts_that_differ_in_padding_only_are_different():
    ids = torch.tensor([[PAD, 5, 7, 1], [PAD, 5, 7, 2]])
    masks = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    rows = share_rows(ids, masks, 1)
    assert len(rows.prompts) == 2
    assert len(share_rows(ids, masks[:1].expand(2, -1), 1).prompts) == 1


def test_packed_rows_by_hand():
    # Prompt 5 7, completions 1 2 and 3: prefix 5 | 7 1 -> 1 2 | 7 -> 3.
    ids, mask = torch.tensor([[5, 7, 1, 2], [5, 7, 3, PAD]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    packed = pack_rows(share_rows(ids, mask, 2))
    assert packed.input_ids.tolist() == [[5, 7, 1, 7]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 1]]
    assert packed.shift_labels.tolist() == [[IGNORED, 1, 2, 3]]
    assert packed.source.tolist() == [[1, 2], [3, 0]]
    assert packed.visible[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]


def test_groups_split_by_hand():
    # Rows of prompts 5 7 and 6 7 in turn, three and two completions, two per packed row.
    ids = torch.tensor([[5, 7, 1], [6, 7, 2], [5, 7, 3], [6, 7, 4], [5, 7, 8]])
    packs = split_groups(share_rows(ids, torch.ones_like(ids), 1), completions=2)
    assert packs.prompts.tolist() == [[5, 7], [5, 7], [6, 7]]
    assert packs.prompt_of_row.tolist() == [0, 2, 0, 2, 1]
    packed = pack_rows(packs)
    assert packed.input_ids.tolist() == [[5, 7, 7], [5, 7, 0], [6, 7, 7]]
    assert packed.shift_labels.tolist() == [[IGNORED, 1, 3], [IGNORED, 8, IGNORED], [IGNORED, 2, 4]]


def packs(prompt, completions, rows):
    """Rows that these completions are packed into; `rows` numbers their prompts."""
    T, N = max(completions), len(completions)
    ids = torch.ones(N, prompt + T, dtype=torch.long)
    ids[:, 0] = torch.tensor(rows) + 2
    mask = torch.ones_like(ids)
    for n, length in enumerate(completions):
        mask[n, prompt + length :] = 0
    return len(split_groups(share_rows(ids, mask, T)).prompts)


@pytest.mark.parametrize(
    ("prompt", "completions", "rows", "expected"),
    [
        (512, [64] * 8, [0] * 8, 1),
        (48, [32] * 8, [0] * 8, 1),
        (128, [512] * 8, [0] * 8, 4),  # work 5112 * 1.32 or 4604 * 1.58, 8 % apart: the fewer tokens
        (500, [64] * 8, [0] * 8, 1),
        (500, [64] * 2, [0, 1], 2),  # nothing is shared
        (64, [1500] * 8, [0] * 8, 8),  # attention over all eight would cost more than the prompts
        (601, [600] * 8, [0] * 8, 4),  # tokens 8 * 1200, 4 * 1800, 2 * 3000 times 1.6, 1.9, 2.5
        (60, [400] + [20] * 7, [0] * 8, 1),  # one long response would pad the other seven
    ],
)
def test_packed_rows_follow_from_lengths(prompt, completions, rows, expected):
    assert packs(prompt, completions, rows) == expected


def test_by_blocks_a_group_is_whole_however_long_unless_padding_costs_more(monkeypatch):
    monkeypatch.setattr(packing, "by_blocks", lambda device: True)
    assert packs(64, [1500] * 8, [0] * 8) == 1
    assert packs(64, [1500] * 8 + [10], [0] * 8 + [1]) == 9


def shuffled_batch(P, G, micro_batches, seed):
    gen = torch.Generator().manual_seed(seed)
    prompts = torch.randint(3, 99, (P, 5), generator=gen)
    order = torch.randperm(P * G, generator=gen)
    row = torch.arange(P * G)[order]
    batch = {
        "prompt_ids": prompts.repeat_interleave(G, 0)[order],
        "prompt_mask": torch.ones(P * G, 5, dtype=torch.long),
        "advantages": row.double(),
        "num_items_in_batch": torch.tensor(7),
        "ref_per_token_logps": None,
    }
    size = P * G // micro_batches
    cut = [{k: v if v is None or v.dim() == 0 else v[i * size : (i + 1) * size] for k, v in batch.items()}
           for i in range(micro_batches)]  # fmt: skip
    return cut, prompts


def test_each_micro_batch_holds_one_whole_group_and_rows_stay_together():
    cut, prompts = shuffled_batch(P=4, G=8, micro_batches=4, seed=1)
    assert any(len(b["prompt_ids"].unique(dim=0)) > 1 for b in cut), "an unshuffled batch would make this vacuous"
    out = regroup(cut, window=4)
    assert [len(b["prompt_ids"]) for b in out] == [8] * 4
    for batch in out:
        assert len(batch["prompt_ids"].unique(dim=0)) == 1
        group = (batch["advantages"] // 8).unique()
        assert torch.equal(batch["prompt_ids"][0], prompts[int(group)])
        assert batch["num_items_in_batch"] == 7
        assert batch["ref_per_token_logps"] is None
    rows = torch.cat([b["advantages"] for b in out])
    assert torch.equal(rows.sort().values, torch.arange(32.0).double())


def test_group_order_is_the_shuffle_s():
    batches = [regroup(shuffled_batch(4, 8, 4, seed)[0], window=4) for seed in range(20)]
    orders = {tuple(int(part["advantages"][0] // 8) for part in cut) for cut in batches}
    assert len(orders) > 8, "groups would be trained in the same order every step"


def test_micro_batches_smaller_than_a_group_hold_parts_of_one():
    out = regroup(shuffled_batch(P=2, G=8, micro_batches=4, seed=3)[0], window=4)
    assert [len(b["prompt_ids"].unique(dim=0)) for b in out] == [1] * 4
