import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dqo.embedders.chunking import ChunkedEmbedder, split_texts
from dqo.errors import EncoderError


def words(texts):
    return [len(text.split()) for text in texts]


def letters(texts):
    return [len(text) for text in texts]


AXES = {"a": [1.0, 0.0], "b": [0.0, 1.0]}


def first_letter(texts):
    """An encoder one can follow by hand: a text is the axis of its first letter, of any length."""
    return torch.tensor([AXES[text.strip()[0]] for text in texts]) * 7


class Toy(ChunkedEmbedder):
    def _count(self, texts):
        return words(texts)


def embed(texts, encode=first_letter):
    toy = Toy("toy", 2, batch_size=2, reads=4)
    toy._encode = encode
    return toy(texts)


def test_pieces_are_averaged_by_their_tokens():
    # Seven words, limit 4: cut at the white space left of the middle, "a a a" and "b b b b".
    E = embed(["a a a b b b b"])
    torch.testing.assert_close(E, torch.tensor([[3 / 5, 4 / 5]]))


def test_text_beyond_the_limit_changes_the_embedding():
    head = "a a a a"
    short, long = embed([head, head + " b b b b"])
    assert torch.equal(short, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(long, torch.tensor([0.5, 0.5]).sqrt())


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault of the code
@given(
    st.lists(st.text(alphabet="ab \n", max_size=60), max_size=6),
    st.integers(1, 9),
    st.sampled_from([words, letters]),
)
def test_nothing_is_lost_and_every_piece_fits(texts, limit, count):
    pieces = split_texts(texts, limit, count)
    assert all(tokens == count([piece])[0] and 1 <= tokens <= limit for _, piece, tokens in pieces)
    for row, text in enumerate(texts):
        kept = "".join(piece for r, piece, _ in pieces if r == row)
        assert kept.split() == [] if not text.strip() else "".join(kept.split()) == "".join(text.split())


def test_cuts_fall_between_words_where_they_can():
    text = "alpha beta gamma delta epsilon zeta eta theta iota kappa"
    pieces = [piece for _, piece, _ in split_texts([text], 3, words)]
    assert len(pieces) > 2
    assert [word for piece in pieces for word in piece.split()] == text.split()


def test_a_word_longer_than_the_limit_is_cut_rather_than_dropped():
    pieces = split_texts(["x" * 10], 4, letters)
    assert [(piece, tokens) for _, piece, tokens in pieces] == [("xx", 2), ("xxx", 3), ("xx", 2), ("xxx", 3)]


def test_blank_text_is_a_zero_row_and_rows_keep_their_order():
    E = embed(["b", "", "a a a", " \n\t", "b b"])
    assert E.tolist() == [[0, 1], [0, 0], [1, 0], [0, 0], [0, 1]]
    assert embed([]).shape == (0, 2)


def test_batches_go_by_length_and_keep_to_the_size():
    seen = []

    def spy(texts):
        seen.append(words(texts))
        return first_letter(texts)

    embed(["a a a", "b", "a a", "b b b b", "a"], encode=spy)
    assert seen == [[1, 1], [2, 3], [4]]


def test_half_precision_comes_back_as_float32_unit_rows():
    E = embed(["a", "b b"], encode=lambda texts: first_letter(texts).bfloat16())
    assert E.dtype == torch.float32
    assert E.norm(dim=1).tolist() == [1, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_names_the_row_of_the_caller(value):
    def broken(texts):
        vectors = first_letter(texts)
        vectors[[i for i, text in enumerate(texts) if "bad" in text], 1] = value
        return vectors

    with pytest.raises(EncoderError, match=r"'toy' should return finite numbers.*for row 2 \('b bad b'\)"):
        embed(["a a a a", "", "b bad b", "a"], encode=broken)


@pytest.mark.parametrize("size", [0, -1])
def test_batch_size_is_checked(size):
    with pytest.raises(EncoderError, match="whole number of at least 1, got"):
        Toy("toy", 2, size, reads=4)
