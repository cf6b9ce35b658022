"""A run that is resumed from any of its checkpoints ends as the run that was never stopped: to the last bit."""

import json
import math

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerControl, TrainerState, TrainingArguments

from dqo import DQOConfig, DQOPPOConfig, DQOPPOTrainer, DQORLOOConfig, DQORLOOTrainer, DQOTrainer
from dqo.diversity.alpha import AlphaControl, FlooredAlpha
from dqo.errors import ModelError, RecipeError
from dqo.files.run import KEY
from dqo.integrations.trl.resume import RunMemory

# 4 prompts, 2 of them a rollout, 4 updates from each rollout, 8 updates an epoch: step 11 is in the second epoch, in
# the middle of a rollout and in its second pass over the minibatches.
SHARED = {
    "per_device_train_batch_size": 4, "num_generations": 4, "steps_per_generation": 2, "num_iterations": 2,
    "gradient_accumulation_steps": 1, "max_steps": 14, "save_steps": 1, "max_completion_length": 5, "bf16": False,
    "use_cpu": True, "report_to": [], "learning_rate": 1e-2, "encoder": "hashed", "seed": 5, "disable_tqdm": True,
    "lr_scheduler_type": "cosine", "gradient_checkpointing": False,
}  # fmt: skip
AUTO = {"alpha": "auto", "vendi_target": 2.5, "combine": "add"}
KINDS = {
    "grpo": (DQOTrainer, DQOConfig, {"logging_steps": 3, "beta": 0.1}),
    "ppo": (DQOPPOTrainer, DQOPPOConfig, AUTO),
    "rloo": (DQORLOOTrainer, DQORLOOConfig, {"alpha": 0.5}),
}


def words(completions, **columns):
    return [len(set(text.split())) / 5 for text in completions]


PROMPTS = ["the dog", "a cat", "red house near", "old tree and river"]


def trainer(kind, policy, tokenizer, out, prompts=PROMPTS, **changes):
    host, config, own = KINDS[kind]
    return host(
        AutoModelForCausalLM.from_pretrained(policy), words, args=config(str(out), **SHARED | own | changes),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )  # fmt: skip


def tensors(folder):
    """Every tensor of a checkpoint: weights, optimizer, scheduler, random states, critic, rollout."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            found[name] = load_file(path)
        elif path.suffix in (".pt", ".pth"):
            found[name] = torch.load(path, weights_only=False)
            if name.startswith("rng_state"):
                found[name].pop("numpy"), found[name].pop("python")
    return found


def state(folder):
    """The state of a checkpoint without what depends on the clock."""
    document = json.loads((folder / "trainer_state.json").read_text())
    for row in document["log_history"]:
        for name in [name for name in row if "time" in name or name.endswith(("_per_second", "runtime"))]:
            del row[name]
    memory = document["stateful_callbacks"]["dqo"]
    del memory["files"]
    host = memory["host"]
    host["metrics"] = {name: values for name, values in host["metrics"].items() if "time" not in name}
    return json.dumps(document)  # NaN equals NaN as text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "stops"),
    [
        pytest.param("grpo", (8, 11), marks=pytest.mark.trl("resume")),
        pytest.param("ppo", (3, 11), marks=pytest.mark.trl("PPO")),
        pytest.param("rloo", (10,), marks=pytest.mark.trl("resume")),
    ],
)
def test_resumed_run_equals_the_one_never_stopped(kind, stops, tiny_policy_folder, tiny_tokenizer, tmp_path):
    whole = tmp_path / "whole"
    trainer(kind, tiny_policy_folder, tiny_tokenizer, whole).train()
    end, last = tensors(whole / "checkpoint-14"), state(whole / "checkpoint-14")
    assert "rollout_0.safetensors" in end, "14 is between two updates from one rollout"
    assert "rollout_0.safetensors" not in tensors(whole / "checkpoint-12")
    assert not torch.equal(*(load_file(whole / f"checkpoint-{step}" / "model.safetensors")["model.norm.weight"]
                             for step in (11, 14))), "three steps must leave a trace"  # fmt: skip
    for stop in stops:
        again = trainer(kind, tiny_policy_folder, tiny_tokenizer, tmp_path / f"from-{stop}")
        torch.manual_seed(stop)  # another process would be somewhere else too
        again.train(resume_from_checkpoint=str(whole / f"checkpoint-{stop}"))
        torch.testing.assert_close(tensors(tmp_path / f"from-{stop}" / "checkpoint-14"), end, atol=0, rtol=0)
        assert state(tmp_path / f"from-{stop}" / "checkpoint-14") == last


def test_an_epoch_that_ends_in_a_short_update_can_be_continued(tiny_policy_folder, tiny_tokenizer, tmp_path):
    """3 micro-steps an epoch at 2 an update: step 2 has done 3 of them, which is a whole rollout, and not 4."""
    changes = {"steps_per_generation": 3, "num_iterations": 1, "gradient_accumulation_steps": 2, "max_steps": 4}
    changes |= {"prompts": PROMPTS[:3], "save_steps": 2}
    trainer("grpo", tiny_policy_folder, tiny_tokenizer, tmp_path / "whole", **changes).train()
    again = trainer("grpo", tiny_policy_folder, tiny_tokenizer, tmp_path / "again", **changes)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    ends = [tensors(tmp_path / name / "checkpoint-4") for name in ("again", "whole")]
    torch.testing.assert_close(*ends, atol=0, rtol=0)


def test_a_run_that_is_done_takes_no_further_step(tiny_policy_folder, tiny_tokenizer, tmp_path):
    trainer("grpo", tiny_policy_folder, tiny_tokenizer, tmp_path, max_steps=3).train()
    again = trainer("grpo", tiny_policy_folder, tiny_tokenizer, tmp_path, max_steps=3)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.state.global_step == 3
    saved = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    torch.testing.assert_close({name: again.model.state_dict()[name] for name in saved}, saved, atol=0, rtol=0)


def test_what_cannot_be_continued_exactly_is_refused(tiny_policy_folder, tiny_tokenizer, tmp_path):
    def resume():
        again = trainer("grpo", tiny_policy_folder, tiny_tokenizer, tmp_path, max_steps=3)
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))

    trainer("grpo", tiny_policy_folder, tiny_tokenizer, tmp_path, max_steps=3).train()
    checkpoint = tmp_path / "checkpoint-3"
    file = checkpoint / "trainer_state.json"
    document = json.loads(file.read_text())
    document["stateful_callbacks"]["dqo"]["host"]["processes"] = 2
    file.write_text(json.dumps(document))
    with pytest.raises(RecipeError, match=r"step 3: expected a continuation by 2 processes, .*got 1, .*start as many"):
        resume()
    (checkpoint / "rollout_0.safetensors").write_bytes(b"half")
    with pytest.raises(ModelError, match=r"rollout_0\.safetensors: expected the rollout .* resume from another"):
        resume()
    (checkpoint / "rollout_0.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"without that rollout; resume from a checkpoint at the end of one, every 4"):
        resume()


def test_log_lines_of_several_steps_are_whole_after_a_resume(tiny_policy_folder, tiny_tokenizer, tmp_path):
    """The loss of a line that a kill fell into is the mean over all its steps."""
    settings = {"max_steps": 3, "save_steps": 1}
    one = trainer("grpo", tiny_policy_folder, tiny_tokenizer, tmp_path / "a", logging_steps=1, **settings)
    one.train()
    losses = [row["loss"] for row in one.state.log_history if "loss" in row]
    trainer("grpo", tiny_policy_folder, tiny_tokenizer, tmp_path / "b", **settings).train()
    again = trainer("grpo", tiny_policy_folder, tiny_tokenizer, tmp_path / "b", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-2"))
    line = next(row for row in again.state.log_history if "loss" in row)
    assert line["step"] == 3
    assert math.isclose(line["loss"], sum(losses) / 3, rel_tol=1e-5)


def test_a_memory_of_another_version_is_refused_in_a_sentence(tmp_path):
    alpha = FlooredAlpha(AlphaControl(low=0.1, start=0.5, high=2.0, rate=1.0), floor=0.5)
    older = {"control": {"memory": 0.0, "error": 0.0, "seen": 3}, "first": 0.4}  # before the band of rest
    state = TrainerState(global_step=3, stateful_callbacks={KEY: {"alpha": older}})
    args = TrainingArguments(str(tmp_path), use_cpu=True)
    expected = "step 3 was written with other settings of 'alpha' or by another version .* lacks 'room'; resume with"
    with pytest.raises(RecipeError, match=expected):
        RunMemory({"alpha": alpha}).on_train_begin(args, state, TrainerControl())
