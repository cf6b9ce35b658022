"""Regrouping a shuffled generation batch: same rows, whole groups, random group order."""

import torch

from dqo.integrations.trl.fast.sharing import regroup


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
