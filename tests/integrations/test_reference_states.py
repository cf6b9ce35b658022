"""Embeddings read off the reference's own forward: the states a slow forward gives, at the tokens of the answer."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from dqo import DQOConfig, DQOPPOConfig, DQOPPOTrainer, DQORLOOConfig, DQORLOOTrainer, DQOTrainer
from dqo.embedders import load_embedder
from dqo.errors import DQOError, EncoderError
from dqo.integrations.trl.reference_states import ReferenceStates

COMMON = {
    "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6, "bf16": False, "use_cpu": True,
    "report_to": [], "save_strategy": "no", "learning_rate": 1e-2, "encoder": "reference", "beta": 0.1, "max_steps": 2,
    "gradient_checkpointing": False, "num_iterations": 2, "steps_per_generation": 1,
}  # fmt: skip
HOSTS = {"grpo": (DQOTrainer, DQOConfig), "rloo": (DQORLOOTrainer, DQORLOOConfig), "ppo": (DQOPPOTrainer, DQOPPOConfig)}


def short_words(completions, **kwargs):
    return [sum(len(w) <= 3 for w in c.split()) / 6 for c in completions]


def train(host, folder, tokenizer, tmp_path, peft_config=None, **settings):
    trainer_class, config_class = HOSTS[host]

    class Recorder(trainer_class):
        def _gathered_embeddings(self, texts):
            self.answers = texts
            self.E = super()._gathered_embeddings(texts)
            return self.E

        def _generate_and_score_completions(self, inputs):
            self.batch = super()._generate_and_score_completions(inputs)
            return self.batch

    trainer = Recorder(
        AutoModelForCausalLM.from_pretrained(folder), short_words,
        args=config_class(str(tmp_path), **COMMON | settings), processing_class=tokenizer, peft_config=peft_config,
        train_dataset=Dataset.from_dict({"prompt": ["the dog", "a cat near the river", "red house", "old tree"]}),
    )  # fmt: skip
    trainer.train()
    return trainer


def slow_embedding(model, prompt, ids, first, behind):
    states = model.model(torch.cat([prompt, ids])[None]).last_hidden_state[0, len(prompt) :].detach()
    mean = sum(states[t] for t in range(first, behind)) / max(1, behind - first)
    return mean / mean.norm() if behind > first else torch.zeros(states.shape[1])


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("shared_prefix", [True, False])
def test_states_are_those_of_the_frozen_start_at_the_tokens_of_the_response(
    host, shared_prefix, tiny_policy_folder, tiny_tokenizer, tmp_path
):
    trainer = train(host, tiny_policy_folder, tiny_tokenizer, tmp_path / "run", shared_prefix=shared_prefix)
    start = AutoModelForCausalLM.from_pretrained(tiny_policy_folder)
    batch = trainer.batch
    for row, E in enumerate(trainer.E):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
        ids = batch["completion_ids"][row][batch["completion_mask"][row].bool()]
        last = len(ids) - 1 if trainer.answers[row].strip() else 0  # nothing but special tokens is an empty response
        torch.testing.assert_close(E, slow_embedding(start, prompt, ids, 0, last), atol=1e-5, rtol=0)
    assert len({tuple(E.tolist()) for E in trainer.E}) > 4
    moved = (a - b for a, b in zip(trainer.model.parameters(), start.parameters(), strict=True))
    assert max(float(d.detach().abs().max()) for d in moved) > 1e-3, "a policy that has moved is told from its start"


def test_with_lora_the_reference_is_the_policy_without_its_additions(tiny_policy_folder, tiny_tokenizer, tmp_path):
    from peft import LoraConfig

    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = train("grpo", tiny_policy_folder, tiny_tokenizer, tmp_path / "run", peft_config=lora, max_steps=3)
    start, batch = AutoModelForCausalLM.from_pretrained(tiny_policy_folder), trainer.batch
    assert any(weight.abs().max() > 0 for name, weight in trainer.model.named_parameters() if "lora_B" in name)
    rows = [row for row, answer in enumerate(trainer.answers) if answer.strip()]
    assert len(rows) > 4
    for row in rows:
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
        ids = batch["completion_ids"][row][batch["completion_mask"][row].bool()]
        torch.testing.assert_close(
            trainer.E[row], slow_embedding(start, prompt, ids, 0, len(ids) - 1), atol=1e-5, rtol=0
        )


def test_only_the_answer_s_tokens_count(tiny_tokenizer):
    states = torch.eye(6)[None].repeat(4, 1, 1)  # (4, 6, 6) the state from which token t was predicted is unit vector t
    text = "the dog runs fast <eos>"
    ids = [tiny_tokenizer.convert_tokens_to_ids(text.split())] * 4
    embed = ReferenceStates(tiny_tokenizer, 6)

    def rows(answers):
        embed.give_states(states[: len(answers)])
        embed.give_responses(ids[: len(answers)], ["the dog runs fast"] * len(answers))
        return (embed(answers) > 0).nonzero().tolist()

    # the state at token t stands in place t + 1, and the last token is left out
    assert rows(["the dog runs fast"]) == [[0, 1], [0, 2], [0, 3], [0, 4]]
    assert rows(["dog runs", "", "fast"]) == [[0, 2], [0, 3], [2, 4]]
    with pytest.raises(EncoderError, match="expected the reference's states of 1 responses, got none"):
        embed(["the dog"])
    with pytest.raises(EncoderError, match="the answer 'a cat' does not stand in the response 'the dog runs fast'"):
        rows(["a cat"])


def test_it_is_refused_where_there_is_no_reference(tmp_path):
    for settings, told in (
        ({"beta": 0.0}, "only with `beta` above 0, got 0; set beta, or use encoder='policy'"),
        ({"mask_truncated_completions": True}, "the tokens of every response, got mask_truncated_completions=True"),
        ({"sync_ref_model": True}, "a judge that stays the same, got sync_ref_model=True"),
    ):
        with pytest.raises(DQOError, match=told):
            DQOConfig(str(tmp_path), **COMMON | settings)
    with pytest.raises(EncoderError, match="reads a forward that only training does"):
        load_embedder("reference")
