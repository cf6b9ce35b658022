"""Other versions of TRL: the reward function on a stock trainer, and what a TRL that lacks a seam is told."""

import copy
import inspect

import pytest
import torch
import trl
from datasets import Dataset
from tiny_runs import COMMON, PROMPTS, recorder, share_of_short_words
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from dqo import DiversityReward, DQOConfig, DQOPPOTrainer, DQORLOOTrainer, DQOTrainer
from dqo.errors import RecipeError
from dqo.integrations.trl import seams
from dqo.integrations.trl.fast import sharing

STOCK = {name: value for name, value in COMMON.items() if name != "encoder"}
DATA = Dataset.from_dict({"prompt": PROMPTS})


def diverse(policy, tokenizer, folder, **settings):
    return DQOTrainer(
        policy, share_of_short_words, DQOConfig(str(folder), **COMMON | settings), DATA, processing_class=tokenizer
    )


@pytest.mark.trl("drop-in")
@pytest.mark.parametrize(("trainer_class", "config"), [(GRPOTrainer, GRPOConfig), (RLOOTrainer, RLOOConfig)])
def test_the_reward_function_trains_a_stock_trainer(trainer_class, config, tiny_policy, tiny_tokenizer, tmp_path):
    before = {name: weight.clone() for name, weight in tiny_policy.state_dict().items()}
    args = config(str(tmp_path), **STOCK | {"max_steps": 2}, reward_weights=[0.0, 2.0])
    trainer = recorder(trainer_class)(
        tiny_policy, [share_of_short_words, DiversityReward(4, encoder="hashed")], args=args, train_dataset=DATA,
        processing_class=tiny_tokenizer,
    )  # fmt: skip
    trainer.train()
    credit, advantages = trainer.table[:, 1].view(2, 4), trainer.batch["advantages"].view(2, 4)
    assert credit.std() > 0.01, "equal credits would make the next line vacuous"
    for row in zip(credit, advantages, strict=True):
        if row[0].std() > 1e-3:
            assert torch.corrcoef(torch.stack(row))[0, 1] > 0.999
    assert any(not torch.equal(before[name], weight) for name, weight in tiny_policy.state_dict().items())


def test_a_missing_method_of_trl_is_looked_for_by_name_and_refused(monkeypatch, tiny_policy, tiny_tokenizer, tmp_path):
    overridden = {
        name
        for trainer in (DQOTrainer, DQORLOOTrainer, DQOPPOTrainer)
        for base in trainer.__mro__
        if base.__module__.startswith("dqo.")
        for name, value in vars(base).items()
        if inspect.isfunction(value) and hasattr(GRPOTrainer, name) and name != "__init__"
    }
    assert set(seams.OVERRIDDEN) == overridden
    monkeypatch.delattr(GRPOTrainer, "_calculate_rewards")
    with pytest.raises(RecipeError, match=rf"TRL {trl.__version__} lacks _calculate_rewards; pip install 'trl==1\.16"):
        diverse(tiny_policy, tiny_tokenizer, tmp_path)


def test_a_batch_that_trl_made_without_our_rewards_is_refused(monkeypatch, tiny_policy, tiny_tokenizer, tmp_path):
    trainer = diverse(tiny_policy, tiny_tokenizer, tmp_path)
    batch = {"advantages": torch.zeros(8), "completion_ids": torch.ones(8, 6)}
    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", lambda self, inputs: batch)
    with pytest.raises(RecipeError, match=r"`_calculate_rewards`, which TRL .* did not call; pip install"):
        trainer.train()


def test_a_newer_trl_is_warned_of_once(monkeypatch, tiny_policy, tiny_tokenizer, tmp_path, caplog):
    diverse(tiny_policy, tiny_tokenizer, tmp_path)
    assert "newest that was tried" not in caplog.text
    monkeypatch.setattr(trl, "__version__", "1.17.0.dev0")
    diverse(tiny_policy, tiny_tokenizer, tmp_path)
    assert caplog.text.count("TRL 1.17.0.dev0 is newer than 1.16, the newest that was tried") == 1


def test_a_trl_without_its_fused_head_trains_and_says_once_why_prompts_are_not_shared(
    monkeypatch, tiny_policy, tiny_tokenizer, tmp_path, caplog
):
    monkeypatch.delattr(seams.utils, "add_fused_lm_head")
    trainer = diverse(tiny_policy, tiny_tokenizer, tmp_path)
    assert not trainer.shares_prefix
    assert not trainer.shares_rollouts
    trainer.train()
    assert caplog.text.count("computed with its own copy of the prompt") == 1
    assert f"because TRL {trl.__version__} lacks `add_fused_lm_head`" in caplog.text


def test_a_trl_with_another_head_shares_prompts_and_says_once_that_the_head_is_its_own(
    monkeypatch, tiny_policy, tiny_tokenizer, tmp_path, caplog
):
    assert diverse(copy.deepcopy(tiny_policy), tiny_tokenizer, tmp_path).shares_prefix
    assert "TRL's own head" not in caplog.text
    monkeypatch.setattr(sharing, "fused_head", lambda: None)
    assert diverse(tiny_policy, tiny_tokenizer, tmp_path).shares_prefix
    assert caplog.text.count("log-probabilities are computed by TRL's own head") == 1


def test_entropies_without_a_gradient_are_refused_before_a_weight_moves(
    monkeypatch, tiny_policy, tiny_tokenizer, tmp_path
):
    trainer = diverse(tiny_policy, tiny_tokenizer, tmp_path, diversity="entropy", alpha=0.1, shared_prefix=False)
    whole = GRPOTrainer._get_per_token_logps_and_entropies

    def without_gradient(*args, **kwargs):
        logps, entropies, loss = whole(*args, **kwargs)
        return logps, None if entropies is None else entropies.detach(), loss

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", without_gradient)
    with pytest.raises(RecipeError, match=r"'entropy' needs entropies with a gradient, got TRL .* install trl>=1\.16"):
        trainer.train()
    assert trainer.state.global_step == 0
