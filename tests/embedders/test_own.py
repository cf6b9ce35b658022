"""A user's function as an encoder, through the reward, the trainer's settings and the loader."""

import numpy as np
import pytest
import torch

from dqo import DQOConfig
from dqo.embedders import OwnEmbedder
from dqo.errors import EncoderError, RecipeError
from dqo.rewards.diversity import DiversityReward

ROWS = {"a": [1, 0], "b": [0, 1]}


@pytest.mark.parametrize("make", [np.array, list, torch.tensor])
def test_arrays_lists_and_tensors_give_the_same_credit(make):
    reward = DiversityReward(3, encoder=lambda texts: make([ROWS[text] for text in texts]))
    credit = reward(prompts=["p"] * 3, completions=["a", "a", "b"])
    assert credit == pytest.approx([np.log(3 / 2), np.log(3 / 2), np.log(2)])


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([[1.0, 0.0]], r"one row of numbers per text, got shape \(1, 2\) for 3 texts; return a \(N, D\) tensor"),
        (np.ones(3), r"got shape \(3,\) for 3 texts"),
        (None, r"encoder 'own' to return one row of numbers per text, got a NoneType"),
    ],
)
def test_what_is_no_embedding_names_the_encoder(found, message):
    def own(texts):
        return found

    with pytest.raises(EncoderError, match=message):
        DiversityReward(3, encoder=own)(prompts=["p"] * 3, completions=["a", "a", "b"])


def test_what_cannot_be_called_is_told_when_it_is_given(tmp_path):
    with pytest.raises(EncoderError, match=r"a function .* as encoder, got a NoneType; pass one, or for a name"):
        DiversityReward(3, encoder=None)
    model = torch.nn.Linear(2, 2)
    OwnEmbedder(model)
    model.encode = ROWS.get
    with pytest.raises(EncoderError, match="got a Linear; pass its method `encode`"):
        OwnEmbedder(model)
    with pytest.raises(EncoderError, match="got a str; pass one, or for a name what `load_embedder` returns"):
        OwnEmbedder("hashed")
    with pytest.raises(RecipeError, match="`encoder` must be text, got <"):
        DQOConfig(str(tmp_path), encoder=OwnEmbedder(ROWS.get), use_cpu=True)
