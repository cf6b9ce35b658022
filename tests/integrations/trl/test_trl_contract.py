"""The private seams of TRL that the trainers stand on: an upgrade that moves one fails here and not in training."""

import inspect
import re

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from dqo.integrations.trl.config import LOSS_TYPES

HOSTS = [(GRPOTrainer, GRPOConfig), (RLOOTrainer, RLOOConfig)]
PROMPTS = ["the dog", "a cat near the river"]


def words(completions, **kwargs):
    return [float(len(completion.split())) for completion in completions]


def letters(completions, **kwargs):
    return [len(completion) / 10 for completion in completions]


@pytest.fixture(scope="module", params=HOSTS, ids=["grpo", "rloo"])
def host(request, tiny_tokenizer, tmp_path_factory):
    """A trainer of TRL, and what passed through its seams in one real step."""
    torch.manual_seed(0)
    policy = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, eos_token_id=1,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, bos_token_id=None,
    ))  # fmt: skip
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
        str(tmp_path_factory.mktemp("host")), per_device_train_batch_size=8, num_generations=4, max_steps=1,
        max_completion_length=6, bf16=False, use_cpu=True, report_to=[], reward_weights=[2.0, -1.0], beta=0.0,
        save_strategy="no",
    )  # fmt: skip
    dataset = Dataset.from_dict({"prompt": PROMPTS, "record": ["{}", "{}"]})
    trainer = Recorder(policy, [words, letters], args=args, train_dataset=dataset, processing_class=tiny_tokenizer)
    trainer.train()
    return trainer, seen


def test_calculate_rewards_takes_rows_and_returns_the_global_table(host):
    trainer, seen = host
    parameters = list(inspect.signature(type(trainer).__mro__[1]._calculate_rewards).parameters)
    assert parameters == ["self", "inputs", "prompts", "completions", "completion_ids_list"]
    assert seen["rewards"].shape == (8, 2)
    scores = torch.tensor([f(seen["completions"]) for f in (words, letters)])
    torch.testing.assert_close(seen["rewards"].T, scores)
    assert len(seen["prompts"]) == len(seen["completions"]) == len(seen["ids"]) == 8
    assert seen["training"], "the group size is chosen by model.training"


def test_rows_of_a_group_are_consecutive(host):
    _, seen = host
    assert [seen["prompts"][i] for i in (0, 4)] != [seen["prompts"][0]] * 2
    assert seen["prompts"][:4] == [seen["prompts"][0]] * 4
    assert seen["prompts"][4:] == [seen["prompts"][4]] * 4


def test_columns_are_found_by_name_and_weighted(host):
    trainer, _ = host
    assert trainer.reward_func_names == ["words", "letters"]
    assert trainer.reward_weights.tolist() == [2.0, -1.0]


def test_advantages_come_from_the_weighted_sum(host):
    trainer, seen = host
    columns = seen["rewards"].view(2, 4, 2)
    rewards = 2.0 * columns[..., 0] - columns[..., 1]
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if isinstance(trainer, GRPOTrainer):
        expected = centred / (rewards.std(dim=1, keepdim=True) + 1e-4)
    else:
        expected = centred * 4 / 3  # against the mean of the three others
    assert expected.abs().max() > 0.1, "rewards that tie would make the next line vacuous"
    torch.testing.assert_close(seen["output"]["advantages"].view(2, 4), expected, atol=1e-4, rtol=1e-4)


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


def test_attributes_that_the_trainers_read(host):
    trainer, seen = host
    for name in ("num_generations", "num_generations_eval", "_step", "current_gradient_accumulation_steps", "_is_vlm"):
        assert hasattr(trainer, name), name
    assert isinstance(trainer._metrics["train"], dict)
    assert list(trainer._logs["advantages"]) == seen["output"]["advantages"].tolist()
    assert isinstance(trainer._tr_loss, torch.Tensor)
    assert trainer._globalstep_last_logged == 0, "the line of the first step is not due yet"
    assert len(trainer._buffered_inputs) == trainer.args.steps_per_generation == 1
    assert sorted(trainer._buffered_inputs[0]["advantages"]) == sorted(seen["output"]["advantages"])


LOGPS = ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy"]
EPOCH = ["self", "model", "epoch", "train_dataloader", "steps_in_epoch"]


@pytest.mark.parametrize("trainer_class", [GRPOTrainer, RLOOTrainer])
@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("_compute_loss", ["self", "model", "inputs"]),
        ("_generate_and_score_completions", ["self", "inputs"]),
        ("_generate_single_turn", ["self", "prompt_ids", "images", "multimodal_fields"]),
        ("_get_per_token_logps_and_entropies", LOGPS),
        ("_prepare_inputs", ["self", "generation_batch"]),
        ("_get_train_sampler", ["self", "dataset"]),
        ("_load_optimizer_and_scheduler", ["self", "checkpoint"]),
        ("_run_epoch", EPOCH),
        ("_save_optimizer_and_scheduler", ["self", "output_dir"]),
        ("_save_rng_state", ["self", "output_dir"]),
    ],
)
def test_seams_take_what_the_trainers_pass_on(trainer_class, name, first):
    assert list(inspect.signature(getattr(trainer_class, name)).parameters)[: len(first)] == first


def test_kinds_of_loss_are_those_that_trl_branches_on():
    branches = re.findall(r"loss_type (?:==|in) (\[.*?\]|\".*?\")", inspect.getsource(GRPOTrainer._compute_loss))
    assert {kind for branch in branches for kind in re.findall(r'"(\w+)"', branch)} == set(LOSS_TYPES)


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


@pytest.mark.parametrize(("trainer_class", "config_class"), HOSTS, ids=["grpo", "rloo"])
def test_old_policy_and_reference_are_asked_before_the_rewards_and_never_after(
    trainer_class, config_class, tiny_policy_folder, tiny_tokenizer, tmp_path
):
    """While a rollout is scored, what is asked before the rewards is computed later, per micro-batch."""
    calls = []

    class Recorder(trainer_class):
        def _get_per_token_logps_and_entropies(self, *args, **kwargs):
            calls.append("log-probabilities")
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

        def _calculate_rewards(self, *args):
            calls.append("rewards")
            return super()._calculate_rewards(*args)

        def _generate_and_score_completions(self, inputs):
            calls.append("rollout")
            output = super()._generate_and_score_completions(inputs)
            calls.append("scored")
            return output

    args = config_class(
        str(tmp_path / "run"), per_device_train_batch_size=8, num_generations=4, max_completion_length=6, max_steps=2,
        num_iterations=2, bf16=False, use_cpu=True, report_to=[], save_strategy="no", beta=0.1,
    )  # fmt: skip
    dataset = Dataset.from_dict({"prompt": PROMPTS})
    Recorder(str(tiny_policy_folder), words, args=args, train_dataset=dataset, processing_class=tiny_tokenizer).train()
    scoring = calls[calls.index("rollout") : calls.index("scored") + 1]
    assert scoring == ["rollout", "log-probabilities", "log-probabilities", "rewards", "scored"]
