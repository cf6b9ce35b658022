"""The private seams of TRL that the trainers stand on; an upgrade that moves one fails here and not in training."""

import inspect

import pytest
import torch
from datasets import Dataset
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

HOSTS = [(GRPOTrainer, GRPOConfig), (RLOOTrainer, RLOOConfig)]
PROMPTS = ["the dog", "a cat near the river"]


def first_word_is_dog(completions, **kwargs):
    return [float(c.startswith("dog")) for c in completions]


@pytest.fixture(params=HOSTS, ids=["grpo", "rloo"])
def host(request, tiny_policy, tiny_tokenizer, tmp_path):
    """An unmodified host trainer, and what passed through its seams in one real step."""
    trainer_class, config_class = request.param
    seen = {}

    class Recorder(trainer_class):
        def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            seen.update(inputs=inputs, prompts=prompts, completions=completions, ids=completion_ids_list)
            seen.update(rewards=rewards.clone(), training=self.model.training)
            return rewards

        def _generate_and_score_completions(self, inputs):
            seen["output"] = super()._generate_and_score_completions(inputs)
            return seen["output"]

    args = config_class(
        str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_completion_length=6, max_steps=1,
        bf16=False, use_cpu=True, report_to=[], reward_weights=[2.0], save_strategy="no", beta=0.0,
    )  # fmt: skip
    dataset = Dataset.from_dict({"prompt": PROMPTS, "record": ["{}", "{}"]})
    trainer = Recorder(
        tiny_policy, first_word_is_dog, args=args, train_dataset=dataset, processing_class=tiny_tokenizer
    )
    trainer.train()
    return trainer, seen


def test_calculate_rewards_takes_rows_and_returns_the_global_table(host):
    trainer, seen = host
    parameters = list(inspect.signature(type(trainer).__mro__[1]._calculate_rewards).parameters)
    assert parameters == ["self", "inputs", "prompts", "completions", "completion_ids_list"]
    assert seen["rewards"].shape == (8, 1)
    assert len(seen["prompts"]) == len(seen["completions"]) == len(seen["ids"]) == 8
    assert seen["training"], "the group size is chosen by model.training"


def test_rows_of_a_group_are_consecutive(host):
    _, seen = host
    assert [seen["prompts"][i] for i in (0, 4)] != [seen["prompts"][0]] * 2
    assert seen["prompts"][:4] == [seen["prompts"][0]] * 4
    assert seen["prompts"][4:] == [seen["prompts"][4]] * 4


def test_columns_are_found_by_name_and_weighted(host):
    trainer, _ = host
    assert trainer.reward_func_names == ["first_word_is_dog"]
    assert trainer.reward_weights.tolist() == [2.0]


def test_advantages_come_from_the_weighted_sum(host):
    _, seen = host
    rewards = 2.0 * seen["rewards"].squeeze(1).view(2, 4)
    advantages = seen["output"]["advantages"].view(2, 4)
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    assert torch.equal(advantages.sign(), centred.sign())


def test_loss_takes_an_advantage_a_token(host):
    trainer, seen = host
    if isinstance(trainer, RLOOTrainer):
        pytest.skip("PPO stands on GRPOTrainer alone")
    batch = dict(seen["output"])
    assert batch["advantages"].dim() == 1
    wide = batch["advantages"][:, None].expand_as(batch["completion_ids"])
    with torch.no_grad():
        one = trainer._compute_loss(trainer.model, batch)
        same = trainer._compute_loss(trainer.model, batch | {"advantages": wide})
        later = trainer._compute_loss(trainer.model, batch | {"advantages": wide + torch.arange(wide.shape[1])})
    torch.testing.assert_close(one, same)
    assert (later - one).abs() > 0.1


def test_optimizer_files_come_before_the_state_that_ends_a_checkpoint(host):
    source = inspect.getsource(Trainer._save_checkpoint)
    assert 0 < source.index("_save_optimizer_and_scheduler(output_dir)") < source.index("save_to_json")


def test_attributes_the_mixin_reads(host):
    trainer, _ = host
    for name in ("num_generations", "num_generations_eval", "_step", "_metrics", "current_gradient_accumulation_steps"):
        assert hasattr(trainer, name), name
    assert isinstance(trainer._metrics["train"], dict)


def test_a_row_that_nothing_scored_is_nan_and_gets_no_advantage(tiny_policy, tiny_tokenizer, tmp_path):
    args = GRPOConfig(
        str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=6, max_steps=1,
        bf16=False, use_cpu=True, report_to=[], save_strategy="no",
    )  # fmt: skip
    seen = {}

    class Recorder(GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            seen["output"] = super()._generate_and_score_completions(inputs)
            return seen["output"]

    def some_unscorable(completions, **kwargs):
        return [None, 1.0, 0.0, 0.0]

    dataset = Dataset.from_dict({"prompt": PROMPTS})
    trainer = Recorder(tiny_policy, some_unscorable, args=args, train_dataset=dataset, processing_class=tiny_tokenizer)
    trainer.train()
    advantages = seen["output"]["advantages"]
    assert advantages[0] == 0
    assert advantages[1] > 0
