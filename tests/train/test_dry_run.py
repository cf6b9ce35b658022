"""`dqo train --dry-run` on every recipe that is shipped, and what it says about what it cannot have."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from dqo.cli.main import main
from dqo.errors import ModelError, RecipeError
from dqo.models.policy import load_policy
from dqo.train.prepare import PolicyShape, kv_width, memory_parts, policy_shape
from dqo.train.recipe import peft_config

ROOT = Path(__file__).parents[2]
OURS = sorted((ROOT / "recipes").glob("*.yaml"))
PAPER = sorted((ROOT / "recipes" / "paper").glob("*.yaml"))
ROWS = {
    "gsm8k": {"prompt": "What is {n} + 1?", "reference": "7", "meta": {}},
    "dolly": {"prompt": "Say {n}.", "reference": "It is said.", "meta": {}},
    "cnn_dailymail": {"prompt": "News {n}. " * 300, "reference": "News .", "meta": {}},
    "commongen": {"prompt": "Write {n}.", "reference": ["A dog."], "meta": {"concepts": ["dog", "n{n}"]}},
}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("DQO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(ROOT)


@pytest.fixture
def data_folder(tmp_path):
    def write(task):
        for split, numbers in (("train", range(60)), ("test", range(100, 105))):
            lines = [json.dumps(ROWS[task]).replace("{n}", str(n)) + "\n" for n in numbers]
            (tmp_path / f"{split}.jsonl").write_text("".join(lines))
        return str(tmp_path)

    return write


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_a_small_recipe_can_start_with_its_data(path, offline, data_folder, tiny_policy_folder, tmp_path, capsys):
    settings = [f"model={tiny_policy_folder}", "encoder=hashed", "trainer.max_completion_length=16"]
    settings += [f"output_dir={tmp_path / 'out'}"]
    if path.stem in ROWS:
        settings += [f"data.path={data_folder(path.stem)}"]
    if path.stem == "cnn_dailymail":
        settings += ["task_options.max_article_words=50"]
    assert main(["train", "--dry-run", str(path), *settings]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "This run can start. `dqo probe` on the same recipe shows whether there is anything to learn." in said
    assert "LlamaForCausalLM, 0.0 M weights in float32, all trained; 2 layers of width 32, 256 positions" in said
    assert "--- prompt 3" in said
    assert "GiB without encoder" in said
    if path.stem in ROWS:
        assert "54 train, 6 dev, 5 test" in said
    if path.stem == "cnn_dailymail":
        assert "54 of 54 articles were cut to 50 words" in said
    assert not (tmp_path / "out").exists(), "a dry run writes nothing"


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_large_recipe_without_the_hub_says_what_is_missing_and_shows_the_rest(path, offline, capsys):
    assert main(["train", "--dry-run", str(path), "encoder=hashed", "trainer.use_vllm=false"]) == 1
    said = capsys.readouterr().out
    missing = [line for line in said.splitlines() if line.startswith("NOT RESOLVED")]
    assert missing
    assert all("the hub said no" in line for line in missing), missing
    assert any(line.startswith("NOT RESOLVED  data: task") for line in missing)
    assert any(line.startswith("NOT RESOLVED  policy: expected") for line in missing)
    assert "responses = " in said
    assert f"{len(missing)} could not be resolved." in said


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_large_recipe_with_stand_ins_for_what_the_hub_has_can_start(
    path, offline, data_folder, tiny_policy_folder, tmp_path, capsys
):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    judge = tmp_path / "reward-model"
    config = LlamaConfig.from_pretrained(tiny_policy_folder, num_labels=1)
    LlamaForSequenceClassification(config).save_pretrained(judge)
    AutoTokenizer.from_pretrained(tiny_policy_folder).save_pretrained(judge)
    recipe = yaml.safe_load(path.read_text())
    for entry in recipe.get("rewards", []):
        entry |= {"model": str(judge)} if entry["reward"] == "reward_model" else {}
    recipe |= {"model": str(tiny_policy_folder), "data": {"path": data_folder(path.stem)}, "encoder": "hashed"}
    recipe["trainer"] |= {"max_completion_length": 16, "use_vllm": False}
    if path.stem == "cnn_dailymail":
        recipe["task_options"] = {"max_article_words": 50}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", "--dry-run", str(tmp_path / "recipe.yaml")]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert f"run       {recipe['algorithm']}, alpha=" in said
    assert "GiB without encoder" in said
    assert "--- prompt 3" in said
    assert said.count("\nreward ") == max(1, len(recipe.get("rewards", [])))


def test_batch_arithmetic_by_hand(own_recipe, capsys):
    # 8 rows × 2 passes = 16 responses = 4 prompts of 4; one optimizer step each; 4 prompts are one pass over the data
    recipe = own_recipe(trainer={"gradient_accumulation_steps": 2, "max_steps": 6})
    assert main(["train", "--dry-run", str(recipe)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 process(es) × 8 rows × 2 passes = 16 responses = 4 prompts × 4 responses, sampled at a time" in said
    assert "6 optimizer steps of 4 prompts: 24 prompts, 6.00 passes over the data" in said


@pytest.mark.parametrize(("available", "passes", "steps"), [(12, 2, 9), (13, 2, 9), (15, 2, 9), (7, 2, 3), (13, 4, 6)])
def test_epochs_are_counted_as_the_host_samples_them(own_recipe, tmp_path, available, passes, steps, capsys):
    from dqo.train.prepare import Prepared
    from dqo.train.recipe import load_recipe
    from dqo.train.run import build_trainer

    (tmp_path / "own.jsonl").write_text(
        "".join(json.dumps({"prompt": f"the dog {i}"}) + "\n" for i in range(available))
    )
    trainer = {
        "max_completion_length": 6, "max_steps": -1, "num_train_epochs": 3, "steps_per_generation": 2,
        "gradient_accumulation_steps": passes, "num_generations": 4,
    }  # fmt: skip
    path = own_recipe(trainer=trainer)
    options = f"task_options.train={tmp_path / 'own.jsonl'}"
    assert main(["train", "--dry-run", str(path), options]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"steps {steps} optimizer steps of" in said
    folder = SimpleNamespace(metrics=tmp_path / "metrics.jsonl", path=tmp_path)
    host = build_trainer(Prepared(load_recipe(path, [options])), folder)
    assert host.set_initial_training_values(host.args, host.get_train_dataloader())[-1] == steps


def test_a_prompt_that_does_not_fit_is_found(own_recipe, capsys):
    assert main(["train", "--dry-run", str(own_recipe()), "trainer.max_completion_length=300"]) == 1
    assert "expected at most 256 tokens with the response, the context of the model, got 4 and up to 300" in (
        capsys.readouterr().out
    )


def test_a_policy_that_sees_images_is_measured_by_the_part_that_writes():
    from transformers import Gemma3Config

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64, "max_position_embeddings": 128}  # fmt: skip
    eyes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape = policy_shape(Gemma3Config(text_config=small, vision_config=eyes), None)
    assert (shape.text.num_hidden_layers, shape.text.hidden_size, kv_width(shape.text)) == (2, 32, 2 * 16)
    assert shape.positions == 128


def test_another_kind_of_model_is_told():
    from transformers import T5Config

    with pytest.raises(ModelError, match="expected a causal language model, but got a t5"):
        policy_shape(T5Config(), None)


def test_memory_by_hand(tiny_policy):
    shape = policy_shape(tiny_policy.config, None)
    own = sum(weight.numel() for weight in tiny_policy.parameters())
    assert (shape.parameters, shape.trained, kv_width(shape.text)) == (own, own, 2 * 16)
    # two layers, each q 32→32, k and v 32→16, o 32→32, gate and up 32→64, down 64→32; rank 2 adds 2·(in + out)
    assert policy_shape(tiny_policy.config, peft_config({"r": 2})).trained == 2 * 2 * (64 + 48 + 48 + 64 + 96 + 96 + 96)
    some = peft_config({"r": 2, "target_modules": ["q_proj"]})
    assert policy_shape(tiny_policy.config, some).trained == 2 * 2 * 64
    text = SimpleNamespace(num_hidden_layers=32, hidden_size=4096, num_attention_heads=None, vocab_size=2**17)
    big = PolicyShape("X", 8 * 2**30, 8 * 2**30, text)
    config = SimpleNamespace(
        per_device_train_batch_size=4, max_completion_length=512, bf16=True, fp16=False, beta=0.0, use_vllm=True,
        steps_per_generation=1, generation_batch_size=4, gradient_checkpointing=True,
    )  # fmt: skip
    parts = memory_parts(big, config, "float32", 512)
    assert parts["weights"] == parts["gradients"] == 32
    assert parts["Adam's moments"] == 64
    assert parts["logits"] == 2  # 2 × 4 rows × 512 tokens × 2¹⁷ words × 4 bytes
    assert parts["activations"] == pytest.approx(4 * 1024 * 4096 * 2 * (32 + 17) / 2**30)
    tuned = replace(big, trained=2**27)  # additions, their gradients and moments in float32 whatever the weights are in
    parts_of_lora = memory_parts(tuned, config, "bfloat16", 512)
    assert (parts_of_lora["weights"], parts_of_lora["gradients"], parts_of_lora["Adam's moments"]) == (16, 0.5, 1)
    config.critic_learning_rate = 1e-5  # weights, gradients and two moments in float32 for as many weights again
    assert memory_parts(big, config, "bfloat16", 512)["critic"] == 128
    assert "critic" not in parts
    assert "reference" not in parts
    assert "keys and values" not in parts


def test_entries_are_trained_on_with_their_weights_and_logged(own_recipe, tmp_path):
    rewards = [
        {"reward": "quality", "weight": 0.5},
        {"reward": "length", "max_words": 3},
        {"reward": "ended", "weight": 0.25},
        {"reward": "length", "min_words": 2, "weight": 0.0},
    ]
    recipe = own_recipe(rewards=rewards, lora={"r": 2, "target_modules": ["q_proj"]}, encoder="policy")
    assert main(["train", str(recipe), "alpha=0.5"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        parts = [row[f"rewards/{name}/mean"] for name in ("quality", "length", "ended", "length_2")]
        assert row["quality"] == pytest.approx(0.5 * parts[0] + parts[1] + 0.25 * parts[2], abs=1e-4)
        assert 0 <= row["responses/truncated"] <= 1
        assert 0 <= row["responses/empty"] <= 1
    final = tmp_path / "run" / "checkpoints" / "final"
    assert (final / "adapter_model.safetensors").exists()
    load_policy(str(final))
    again = tmp_path / "run" / "config.yaml"
    assert main(["train", "--dry-run", "--resume", str(again)]) == 0, "what a run writes down is a recipe again"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["trainer.report_to=wandb"],
            "machine: trainer: TRL refuses report_to='wandb': RuntimeError: WandbCallback requires wandb",
        ),
        (["trainer.report_to=wandbb"], "machine: trainer: TRL refuses report_to='wandbb': wandbb is not supported"),
        (
            ["trainer.use_liger_kernel=true"],
            "machine: trainer: TRL refuses use_liger_kernel=True: ",
        ),
        (["trainer.use_vllm=true"], "machine: trainer: TRL refuses use_vllm=True: PackageNotFoundError: No package"),
        (["encoder=all-MiniLM-L6-v2", "encoder_device=gpu"], "encoder: "),
        (
            ["lora.target_modules=[qq_proj]"],
            "policy: lora: peft refuses target_modules={'qq_proj'}: NoMatchingPeftModuleError: Target",
        ),
        (["rewards=[{reward: math}]"], "reward math: "),
        (["task_options.reward={tmp}/own.py:boom"], "reward quality: reward function 'boom': raised ZeroDivisionError"),
        (["rewards=[{reward: concepts}]"], "reward concepts: reward 'concepts': expected a list of words in meta"),
    ],
)
def test_what_a_run_would_find_out_late_is_not_resolved(own_recipe, tmp_path, capsys, overrides, told):
    (tmp_path / "own.py").write_text(
        "def boom(prompts, completions, **columns):\n    return [1 / 0 for _ in prompts]\n"
    )
    overrides = [override.replace("{tmp}", str(tmp_path)) for override in overrides]
    assert main(["train", "--dry-run", str(own_recipe()), *overrides]) == 1
    assert f"NOT RESOLVED  {told}" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--dry-run"], []])
def test_an_adapter_is_no_start_of_a_training(own_recipe, tiny_policy_folder, tmp_path, capsys, flags):
    from peft import LoraConfig, get_peft_model

    policy = load_policy(str(tiny_policy_folder))[0]
    get_peft_model(policy, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    assert main(["train", *flags, str(own_recipe(lora={"r": 2})), f"model={tmp_path / 'adapter'}"]) != 0
    said = capsys.readouterr()
    assert "holds an adapter, which can only be evaluated; merge it into its base" in said.out + said.err


def test_a_dry_run_says_that_the_folder_is_taken(own_recipe, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").touch()
    assert main(["train", "--dry-run", str(own_recipe())]) == 1
    assert (
        "run': expected an empty or new folder, or with --resume a run to continue, but it holds 'thesis.txt'"
        in capsys.readouterr().out
    )


SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3}


@pytest.mark.parametrize(
    ("kind", "settings", "width"),
    [
        ("mamba", {"state_size": 4}, 0),
        ("mamba2", {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 4}, 0),
        ("falcon_mamba", {"state_size": 4}, 0),
        ("rwkv", {"attention_hidden_size": 32}, 0),
        ("gpt2", {"n_head": 4}, 3 * 32),  # three layers, four heads of 8
        ("mistral", {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24}, 3 * 48),
    ],
)
def test_shapes_of_models_with_and_without_attention(kind, settings, width):
    from transformers import AutoConfig

    shape = policy_shape(AutoConfig.for_model(kind, **SMALL, **settings), None)
    assert (shape.text.num_hidden_layers, shape.text.hidden_size, kv_width(shape.text)) == (3, 32, width)


def test_shapes_of_layers_that_differ():
    from transformers import AutoConfig

    layers = ["sliding_attention", "sliding_attention", "full_attention"]
    config = AutoConfig.for_model(
        "gemma4_text", **SMALL, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        global_head_dim=16, num_global_key_value_heads=1, layer_types=layers, hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=97, attention_k_eq_v=True,
    )  # fmt: skip
    assert kv_width(policy_shape(config, None).text) == 2 * 2 * 8 + 1 * 16


def test_a_policy_without_attention_passes_the_dry_run(own_recipe, tmp_path, tiny_tokenizer, capsys):
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(**SMALL | {"vocab_size": len(tiny_tokenizer)}, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    tiny_tokenizer.save_pretrained(tmp_path / "mamba")
    assert main(["train", "--dry-run", str(own_recipe(model=str(tmp_path / "mamba")))]) == 0
    said = capsys.readouterr().out
    assert "MambaForCausalLM" in said
    assert "keys and values" not in said


def test_several_gpus_in_one_process_are_refused(own_recipe, monkeypatch, capsys):
    from dqo.integrations.trl import DQOConfig, DQOTrainer

    recipe = str(own_recipe())
    monkeypatch.setattr(DQOConfig, "n_gpu", property(lambda self: 4))
    message = "expected one GPU per process, got 4 visible ones and no launcher; start with `accelerate launch"
    assert main(["train", recipe]) == 2
    assert message in capsys.readouterr().err
    assert main(["train", "--dry-run", recipe]) == 1
    assert message in capsys.readouterr().out
    with pytest.raises(RecipeError, match="--num_processes 4 -m dqo train"):
        DQOTrainer("absent/policy", lambda **_: [], DQOConfig("out", use_cpu=True))
