"""Every algorithm of docs/guides/algorithms.md raises the reward of a real (tiny) policy, with its settings there."""

import copy
import re
from pathlib import Path

import pytest
from datasets import Dataset

from dqo.settings.yaml import parse_yaml
from dqo.train.recipe import CONFIGS, load_recipe
from dqo.train.run import TRAINERS

ROOT = Path(__file__).parents[3]
DOCS, RECIPES = (ROOT / "docs" / "guides" / "algorithms.md").read_text(), ROOT / "recipes"
# name -> (algorithm, settings): rows `| Dr. GRPO | grpo | `trainer.loss_type=dr_grpo ...` | ... |` of the table
ROW = re.compile(r"^\| ([\w. ]+?) \| `(\w+)` \| (?:`([^`]*)`|none) \|", flags=re.M)
TABLE = {
    name: (algorithm, dict(pair.removeprefix("trainer.").split("=") for pair in overrides.split()))
    for name, algorithm, overrides in ROW.findall(DOCS)
}
# Responses end with their reward, not with the critic's guess, and an epoch each: as in recipes/concepts_ppo.yaml.
PPO_FROM_REWARDS = {"truncated": "terminal", "num_iterations": 1, "gae_lambda": 1.0}
ALPHA = {"GRPO": 1.0, "RLOO": 1.0, "PPO": 2.0}


def share_of_short_words(completions, **kwargs):
    return [sum(len(w) <= 3 for w in c.split()) / max(1, len(c.split())) for c in completions]


def test_the_table_has_them_all():
    assert {"GRPO", "Dr. GRPO", "DAPO", "GSPO", "RLOO", "PPO"} == TABLE.keys()


@pytest.mark.parametrize("name", TABLE)
def test_a_row_is_what_a_command_line_adds_to_a_recipe(name):
    algorithm, _ = TABLE[name]
    written = next(found[2] for found in ROW.findall(DOCS) if found[0] == name).split()
    recipe = load_recipe(RECIPES / "commongen.yaml", [f"algorithm={algorithm}", *written])
    config = recipe.config
    assert type(config) is CONFIGS[algorithm]
    for pair in written:
        key, _, value = pair.removeprefix("trainer.").partition("=")
        assert getattr(config, key) == parse_yaml(value, name)


@pytest.fixture
def train(tiny_policy, tiny_tokenizer, tmp_path):
    """Trains a copy of the tiny policy with a row's settings; returns quality and Vendi score of every rollout."""

    def run(name, alpha, **more):
        algorithm, overrides = TABLE[name]
        settings = {key: parse_yaml(value, name) for key, value in overrides.items()}
        args = CONFIGS[algorithm](
            str(tmp_path), alpha=alpha, encoder="hashed", **{
                "per_device_train_batch_size": 32, "num_generations": 8, "max_completion_length": 8, "max_steps": 30,
                "learning_rate": 1e-2, "lr_scheduler_type": "constant", "beta": 0.0, "bf16": False, "use_cpu": True,
                "gradient_checkpointing": False, "report_to": [], "save_strategy": "no", **settings, **more,
            },
        )  # fmt: skip
        trainer = TRAINERS[algorithm](
            copy.deepcopy(tiny_policy), share_of_short_words, args=args, processing_class=tiny_tokenizer,
            train_dataset=Dataset.from_dict({"prompt": ["the dog", "a cat near the river", "red house", "old tree"]}),
        )  # fmt: skip
        trainer.train()
        lines = [line for line in trainer.state.log_history if "quality" in line]
        return [line["quality"] for line in lines], [line["diversity/vendi"] for line in lines]

    return run


def start(values):
    return sum(values[:3]) / 3


def end(values):
    return sum(values[-5:]) / 5


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_reward_rises(name, train):
    quality, _ = train(name, alpha=0.1)
    assert end(quality) > start(quality) + 0.1, quality


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GRPO", "RLOO", "PPO"])
def test_the_credit_keeps_groups_diverse_while_the_reward_rises(name, train):
    more = {"max_steps": 40} | (PPO_FROM_REWARDS if name.startswith("PPO") else {})
    plain, collapsed = train(name, alpha=0.0, **more)
    quality, vendi = train(name, alpha=ALPHA[name], **more)
    assert end(plain) > start(plain) + 0.3, "both must learn"
    assert end(quality) > start(quality) + 0.3
    assert end(collapsed) < 0.7 * start(collapsed), "reward alone must narrow the groups, or there is nothing to keep"
    assert end(vendi) > 1.3 * end(collapsed)
