import subprocess
import sys

import pytest
import torch

from dqo.embedders import HashedEmbedder, load_embedder
from dqo.embedders.local import features
from dqo.errors import EncoderError


def test_features_of_a_text_by_hand():
    assert features("Ab cd") == ["ab", "cd", "ab cd", "^ab", "ab$", "^cd", "cd$"]
    assert features(" \n") == []


def test_shared_words_are_nearer_than_none():
    E = HashedEmbedder()(["the dog runs in the park", "the dog runs in a park", "interest rates rose again"])
    K = E @ E.T
    assert K[0, 1] > 0.7
    assert K[0, 2].abs() < 0.25


def test_word_order_counts():
    E = HashedEmbedder()(["dog bites man", "man bites dog"])
    assert E[0] @ E[1] < 0.95


def test_rows_are_unit_and_blank_ones_zero():
    E = HashedEmbedder(64)(["?", "", " \t\n", "ein Wort", "\ud800"])  # a lone surrogate cannot be encoded as UTF-8
    assert E.shape == (5, 64)
    torch.testing.assert_close(E.norm(dim=1), torch.tensor([1.0, 0, 0, 1, 1]))


def test_another_process_gets_the_same_numbers():
    # PYTHONHASHSEED differs between the two, which is what would show `hash()`.
    code = "from dqo.embedders import HashedEmbedder; print(HashedEmbedder(8)(['a b']).tolist())"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {f"{HashedEmbedder(8)(['a b']).tolist()}\n"}


def test_the_numbers_do_not_change_between_versions():
    # Fixed here so that stored runs stay comparable; shake_256 is a standard.
    E = HashedEmbedder(8)(["dqo"])
    torch.testing.assert_close(
        E[0],
        torch.tensor([-0.208899, -0.113757, -0.246128, -0.248196, 0.306109, 0.0848, -0.848004, 0.035161]),
        atol=1e-6,
        rtol=0,
    )


@pytest.mark.parametrize(("name", "dimension"), [("hashed", 256), ("hashed:64", 64)])
def test_loading_by_name(name, dimension):
    embedder = load_embedder(name, device="cpu")
    assert (embedder.name, embedder.dimension) == (f"hashed:{dimension}", dimension)
    assert embedder(["x"]).shape == (1, dimension)


@pytest.mark.parametrize("name", ["hashed:x", "hashed:", "hashed:-8", "hashed:0"])
def test_a_bad_width_is_told(name):
    pytest.importorskip("sentence_transformers")
    with pytest.raises(EncoderError, match=f"expected 'sentence-transformers/{name}' to be 'hashed', a folder or an"):
        load_embedder(name)
