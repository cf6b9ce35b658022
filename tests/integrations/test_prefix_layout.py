"""Where tokens go when rows share a prompt, by hand, and which layout is chosen for which lengths."""

import pytest
import torch

from dqo.integrations.trl.prefix_layout import IGNORED, cheapest_layout, pack_rows, share_rows

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


@pytest.mark.parametrize(
    ("prompt", "completions", "rows", "expandable", "expected"),
    [
        (500, [64] * 8, [0] * 8, True, "expanded"),
        (500, [64] * 8, [0] * 8, False, "packed"),
        (500, [64] * 2, [0, 1], True, "unshared"),  # nothing is shared
        (64, [1500] * 8, [0] * 8, False, "unshared"),  # the dense mask would cost more than the prompts
        (64, [1500] * 8, [0] * 8, True, "expanded"),
        (60, [400] + [20] * 7, [0] * 8, True, "packed"),  # one long response would pad the other seven
    ],
)
def test_layout_follows_lengths(prompt, completions, rows, expandable, expected):
    T, N = max(completions), len(completions)
    ids = torch.ones(N, prompt + T, dtype=torch.long)
    ids[:, 0] = torch.tensor(rows) + 2
    mask = torch.ones_like(ids)
    for n, length in enumerate(completions):
        mask[n, prompt + length :] = 0
    assert cheapest_layout(share_rows(ids, mask, T), expandable) == expected
