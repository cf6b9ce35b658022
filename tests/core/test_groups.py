import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from dqo.core import blocks, by_id, cosine_kernel, leave_one_out, pad_groups
from dqo.errors import GroupError

check = settings(max_examples=50, deadline=None, derandomize=True)
RAGGED = st.lists(st.integers(0, 4), min_size=1, max_size=20)


def test_whole_blocks_are_counted():
    assert blocks(12, 4) == 3
    assert blocks(0, 4) == 0
    assert blocks(6, 3, ["a"] * 3 + ["b"] * 3) == 2
    assert blocks(6, 3, ["a"] * 6) == 2, "two neighbouring groups may answer the same prompt"


def test_partial_group_is_refused():
    with pytest.raises(GroupError, match="whole groups of 4 responses, got 10 rows, which leaves 2 over"):
        blocks(10, 4)


def test_batch_that_starts_inside_a_group_is_refused_at_the_first_wrong_row():
    keys = ["a"] * 4 + ["b"] * 4
    assert blocks(8, 4, keys) == 2
    with pytest.raises(GroupError, match="rows 0 to 3 to answer one prompt, but row 3 has another prompt"):
        blocks(8, 4, keys[1:] + keys[:1])


def test_by_id_by_hand():
    assert by_id(["b", "a", "b", 3, "a"]) == {"b": [0, 2], "a": [1, 4], 3: [3]}
    assert list(by_id(["b", "a", "b"])) == ["b", "a"]


@given(ids=RAGGED)
@check
def test_by_id_covers_every_row_once(ids):
    groups = by_id(ids)
    assert sorted(row for rows in groups.values() for row in rows) == list(range(len(ids)))
    assert all(ids[row] == key for key, rows in groups.items() for row in rows)


def unpadded(padded, groups, n_rows):
    """The inverse of `pad_groups`."""
    values = padded.new_zeros(n_rows, *padded.shape[2:])
    for p, rows in enumerate(groups):
        values[rows] = padded[p, : len(rows)]
    return values


@given(ids=RAGGED, trailing=st.sampled_from([(), (3,), (2, 2)]))
@check
def test_padding_round_trips_with_ragged_groups(ids, trailing):
    values = torch.randn(len(ids), *trailing, generator=torch.Generator().manual_seed(len(ids)))
    groups = list(by_id(ids).values())
    padded, present = pad_groups(values, groups)
    assert padded.shape == (len(groups), max(map(len, groups)), *trailing)
    assert present.sum(dim=-1).tolist() == [len(rows) for rows in groups]
    assert (padded[~present] == 0).all()
    assert torch.equal(unpadded(padded, groups, len(ids)), values)


def test_no_groups_give_an_empty_tensor():
    padded, present = pad_groups(torch.zeros(0, 3), [])
    assert padded.shape == (0, 0, 3)
    assert present.shape == (0, 0)


@given(ids=RAGGED)
@check
def test_credits_of_ragged_groups_equal_each_group_alone(ids):
    E = torch.randn(len(ids), 5, generator=torch.Generator().manual_seed(len(ids)), dtype=torch.float64)
    groups = list(by_id(ids).values())
    credit = unpadded(leave_one_out(cosine_kernel(pad_groups(E, groups)[0])), groups, len(ids))
    for rows in groups:
        assert_close(credit[rows], leave_one_out(cosine_kernel(E[rows])), rtol=0, atol=1e-12)


@given(ids=RAGGED, seed=st.integers(0, 1000))
@check
def test_reordering_rows_reorders_their_credits(ids, seed):
    gen = torch.Generator().manual_seed(seed)
    E = torch.randn(len(ids), 5, generator=gen, dtype=torch.float64)
    perm = torch.randperm(len(ids), generator=gen)

    def credits(E, ids):
        groups = list(by_id(ids).values())
        return unpadded(leave_one_out(cosine_kernel(pad_groups(E, groups)[0])), groups, len(ids))

    shuffled = credits(E[perm], [ids[row] for row in perm.tolist()])
    assert_close(shuffled, credits(E, ids)[perm], rtol=0, atol=1e-12)
