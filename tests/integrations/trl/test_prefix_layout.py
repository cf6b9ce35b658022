"""Where tokens go when rows share a prompt, by hand, and how many completions stand in a row for which lengths."""

import pytest
import torch

from dqo.integrations.trl.fast.packing import IGNORED, pack_rows, share_rows, split_groups

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


@pytest.mark.parametrize(
    ("prompt", "completions", "rows", "expected"),
    [
        (500, [64] * 8, [0] * 8, 1),
        (500, [64] * 2, [0, 1], 2),  # nothing is shared
        (64, [1500] * 8, [0] * 8, 8),  # attention over all eight would cost more than the prompts
        (601, [600] * 8, [0] * 8, 4),  # tokens 8 * 1200, 4 * 1800, 2 * 3000 times 1.6, 1.9, 2.5
        (60, [400] + [20] * 7, [0] * 8, 1),  # one long response would pad the other seven
    ],
)
def test_packed_rows_follow_from_lengths(prompt, completions, rows, expected):
    T, N = max(completions), len(completions)
    ids = torch.ones(N, prompt + T, dtype=torch.long)
    ids[:, 0] = torch.tensor(rows) + 2
    mask = torch.ones_like(ids)
    for n, length in enumerate(completions):
        mask[n, prompt + length :] = 0
    assert len(split_groups(share_rows(ids, mask, T)).prompts) == expected
