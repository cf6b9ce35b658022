"""`deterministic: true`: torch is held to algorithms that repeat, and two runs end with the same bytes."""

import pytest
import torch
from safetensors.torch import load_file

from dqo.cli.main import main
from dqo.errors import RecipeError
from dqo.train.recipe import load_recipe

REWARD = """
import torch


def words(prompts, completions, **columns):
    assert torch.are_deterministic_algorithms_enabled() == {wanted}
    return [min(1.0, len(text.split()) / 8) for text in completions]
"""


@pytest.fixture(autouse=True)
def _torch_as_before():
    yield
    torch.use_deterministic_algorithms(False)


def weights(own_recipe, tmp_path, name, wanted, **changes):
    """Weights after three steps, the reward having seen whether torch is held to what repeats."""
    recipe = own_recipe(output_dir=str(tmp_path / name), **changes)
    (tmp_path / "reward.py").write_text(REWARD.format(wanted=wanted))
    assert main(["train", str(recipe)]) == 0
    return load_file(tmp_path / name / "checkpoints" / "final" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_two_deterministic_runs_end_with_the_same_weights(own_recipe, tmp_path, algorithm):
    settings = {"deterministic": True, "algorithm": algorithm, "seed": 5}
    first = weights(own_recipe, tmp_path, "first", True, **settings)
    second = weights(own_recipe, tmp_path, "second", True, **settings)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = weights(own_recipe, tmp_path, "other", True, **settings | {"seed": 6})
    assert any(not torch.equal(first[name], other[name]) for name in first), "the seed must matter"


def test_it_is_off_by_default_and_has_one_place(own_recipe):
    assert load_recipe(own_recipe()).config.full_determinism is False
    recipe = load_recipe(own_recipe(), ["deterministic=true"])
    assert recipe.config.full_determinism is True
    assert recipe.settings()["deterministic"] is True
    assert "full_determinism" not in recipe.settings()["trainer"]
    with pytest.raises(RecipeError, match="set `deterministic: true` at the top level"):
        load_recipe(own_recipe(), ["trainer.full_determinism=true"])
