"""No model with a weight drawn at random: every kind of model that is loaded, every way in which a weight can lack."""

import ast
import json
from pathlib import Path

import pytest
import tiny_encoder as tiny
import torch
from safetensors.torch import load_file, save_file

import dqo
from dqo.embedders import load_embedder
from dqo.errors import EncoderError, ModelError
from dqo.evaluation.same_meaning import Entailment, NoveltyBenchClassifier
from dqo.models.policy import load_policy

TEXTS = ["the dog runs", "a red bird sings near the tree", "cat"]
LAYER = "encoder.layer.1."
SRC = Path(dqo.__file__).parent


def change(folder, rename=lambda name: name, file="model.safetensors"):
    """Write the weights again under other names; None leaves one out."""
    weights = load_file(folder / file)
    kept = {rename(name): weight.clone() for name, weight in weights.items() if rename(name) is not None}
    save_file(kept, folder / file, metadata={"format": "pt"})
    return folder


def without(*parts):
    return lambda name: None if any(part in name for part in parts) else name


LACKING = [
    (lambda name: name.replace("encoder.layer", "encoder.block"), "encoder.layer.0."),
    (lambda name: f"wrapped.{name}", "embeddings."),
    (lambda name: name.replace(LAYER, "encoder.layer.9."), LAYER),
    (without(LAYER + "output.dense.bias"), LAYER + "output.dense.bias"),
    (without("position_embeddings"), "embeddings.position_embeddings.weight"),
    (without("word_embeddings"), "embeddings.word_embeddings.weight"),
    (without("token_type"), "embeddings.token_type_embeddings.weight"),
    (without(LAYER + "attention.output.LayerNorm"), LAYER + "attention.output.LayerNorm.bias"),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("rename", "name"), LACKING, ids=[name for _, name in LACKING])
def test_an_encoder_that_lacks_a_weight_is_refused(rename, name, dtype, tmp_path):
    folder = change(tiny.encoder_folder(tmp_path / "encoder"), rename)
    with pytest.raises(ModelError, match=rf"the files of BertModel in '{folder}' lack \d+ \('{name}"):
        load_embedder(str(folder), device="cpu", dtype=dtype)


@pytest.mark.parametrize("part", ["word_embeddings", LAYER + "output.dense.weight"])
def test_the_library_itself_draws_what_is_refused(part, tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = str(change(tiny.encoder_folder(tmp_path / "encoder"), without(part)))
    one, other = (SentenceTransformer(folder, device="cpu").encode(TEXTS, convert_to_tensor=True) for _ in range(2))
    assert not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "rename",
    [
        without("pooler"),
        lambda name: name.replace("pooler", "head"),
        lambda name: f"bert.{name}",
    ],
    ids=["no pooler", "pooler by another name", "saved with a head"],
)
def test_what_the_vectors_do_not_read_may_lack(rename, dtype, tmp_path):
    folder = tiny.encoder_folder(tmp_path / "encoder")
    whole = load_embedder(str(folder), device="cpu", dtype=dtype)(TEXTS)
    change(folder, rename)
    for _ in range(2):
        assert torch.equal(load_embedder(str(folder), device="cpu", dtype=dtype)(TEXTS), whole)


def test_weights_nobody_asked_for_and_positions_are_no_fault(tmp_path):
    folder = tiny.encoder_folder(tmp_path / "encoder")
    whole = load_embedder(str(folder), device="cpu")(TEXTS)
    more = {"cls.predictions.bias": torch.ones(3), "embeddings.position_ids": torch.arange(32)[None]}
    save_file(load_file(folder / "model.safetensors") | more, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(load_embedder(str(folder), device="cpu")(TEXTS), whole)


def test_other_modules_of_an_encoder_count_too(tmp_path):
    folder = tiny.encoder_folder(tmp_path / "encoder", dense=True)
    assert load_embedder(str(folder), device="cpu")(TEXTS).shape == (3, 8)
    (dense,) = folder.glob("*_Dense")
    change(dense, without("bias"))
    with pytest.raises(EncoderError, match=r"linear\.bias"):
        load_embedder(str(folder), device="cpu")


def test_weights_of_another_shape_are_named(tmp_path):
    folder = tiny.encoder_folder(tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 12}))
    with pytest.raises(ModelError, match=r"'encoder.layer.0.intermediate.dense.bias' of shape \(24,\) for \(12,\)"):
        load_embedder(str(folder), device="cpu")


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_not_stored_is_a_fault_only_where_nothing_stands_for_it(tied, tmp_path, tiny_tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    change(tmp_path, without("lm_head"))
    if tied:
        load_policy(str(tmp_path))
        load_embedder(f"policy:{tmp_path}", device="cpu")
        return
    for load in (load_policy, lambda name: load_embedder(f"policy:{name}", device="cpu")):
        with pytest.raises(ModelError, match=r"the files of LlamaForCausalLM in .* lack 1 \('lm_head.weight'\)"):
            load(str(tmp_path))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_policy_by_other_names_is_refused_with_both(dtype, tiny_policy_folder):
    change(tiny_policy_folder, lambda name: name.replace("layers.1", "blocks.1"))
    with pytest.raises(ModelError, match=r"lack 9 \('model.layers.1.*, hold 9 \('model.blocks.1"):
        load_policy(str(tiny_policy_folder), dtype=dtype)


def classifier(folder, labels):
    from transformers import BertForSequenceClassification

    tiny.tokenizer().save_pretrained(folder)
    config = tiny.bert().config
    config.id2label = dict(enumerate(labels))
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("part", ["classifier", "pooler", LAYER])
@pytest.mark.parametrize("judge", [Entailment, NoveltyBenchClassifier])
def test_a_judge_of_pairs_without_its_head_is_refused(judge, part, tmp_path):
    folder = classifier(tmp_path / "judge", ["entailment", "no"])
    judge(str(folder), device="cpu")
    change(folder, without(part))
    with pytest.raises(ModelError, match=rf"BertForSequenceClassification in .* lack \d+ \('(bert\.)?{part}"):
        judge(str(folder), device="cpu")


@pytest.mark.parametrize("part", ["score", "layers.1.mlp"])
def test_a_reward_model_without_its_score_is_refused(part, tmp_path, tiny_policy, tiny_tokenizer):
    from transformers import LlamaForSequenceClassification

    from dqo.rewards.reward_model import RewardModel

    config = tiny_policy.config
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    RewardModel(str(tmp_path), device="cpu")
    change(tmp_path, without(part))
    with pytest.raises(
        ModelError, match=rf"LlamaForSequenceClassification in .* lack \d+ \('.*{part}.*trained as a rew"
    ):
        RewardModel(str(tmp_path), device="cpu")


def adapter(policy, base, tokenizer, folder, **settings):
    """A LoRA that changes its base, saved beside the tokenizer."""
    peft = pytest.importorskip("peft")
    with torch.random.fork_rng():
        tuned = peft.get_peft_model(policy, peft.LoraConfig(r=2, init_lora_weights=False, **settings))
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    tuned.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class TestAdapters:
    @pytest.fixture
    def made(self, tiny_policy, tiny_policy_folder, tiny_tokenizer, tmp_path):
        return adapter(tiny_policy, tiny_policy_folder, tiny_tokenizer, tmp_path / "adapter")

    @pytest.mark.parametrize(
        "rename",
        [
            without("layers.1.self_attn.q_proj.lora_A"),
            without("lora_B"),
            lambda name: name.replace("self_attn", "attn"),
            lambda name: name.removeprefix("base_model.model.").replace("model.", "transformer."),
        ],
        ids=["one A", "every B", "of another architecture", "another prefix"],
    )
    def test_one_that_lacks_weights_is_refused(self, rename, made):
        load_policy(str(made))
        change(made, rename, "adapter_model.safetensors")
        with pytest.raises(ModelError, match=rf"in '{made}' lack \d+ \('.*lora_"):
            load_policy(str(made))

    def test_one_of_a_deeper_base_is_refused(self, made):
        weights = load_file(made / "adapter_model.safetensors")
        deeper = {
            name.replace("layers.1", "layers.2"): weight.clone()
            for name, weight in weights.items()
            if "layers.1" in name
        }
        save_file(weights | deeper, made / "adapter_model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=rf"{len(deeper)} \(.*lay.* of the adapter in '{made}' have no place"):
            load_policy(str(made))

    def test_one_whose_base_lacks_weights_is_refused(self, made, tiny_policy_folder):
        change(tiny_policy_folder, without("layers.0.mlp"))
        with pytest.raises(ModelError, match=rf"in '{tiny_policy_folder}' lack 3 \('model.layers.0.mlp"):
            load_policy(str(made))

    def test_one_with_whole_modules_of_its_own_is_accepted(
        self, tiny_policy, tiny_policy_folder, tiny_tokenizer, tmp_path
    ):
        made = adapter(
            tiny_policy, tiny_policy_folder, tiny_tokenizer, tmp_path / "adapter", target_modules=["q_proj"],
            modules_to_save=["lm_head"],
        )  # fmt: skip
        load_policy(str(made))


class TestWhatTRLLoadsByName:
    def make(self, model, rewards, tokenizer, folder, **settings):
        from datasets import Dataset

        from dqo import DQOConfig, DQOTrainer

        settings = {
            "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 4, "bf16": False,
            "use_cpu": True, "report_to": [], "save_strategy": "no", "encoder": "hashed", "beta": 0.0,
        } | settings  # fmt: skip
        return DQOTrainer(
            model, rewards, args=DQOConfig(str(folder), **settings), processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": ["the dog", "a cat"]}),
        )  # fmt: skip

    def test_a_policy(self, tiny_policy_folder, tiny_tokenizer, tmp_path):
        self.make(str(tiny_policy_folder), len_reward, tiny_tokenizer, tmp_path / "run")
        change(tiny_policy_folder, without("layers.0.mlp"))
        with pytest.raises(ModelError, match=r"lack 3 \('model.layers.0.mlp"):
            self.make(str(tiny_policy_folder), len_reward, tiny_tokenizer, tmp_path / "run")

    def test_a_reference(self, tiny_policy_folder, tiny_tokenizer, tmp_path):
        from transformers import AutoModelForCausalLM

        policy = AutoModelForCausalLM.from_pretrained(tiny_policy_folder)
        change(tiny_policy_folder, without("layers.0.mlp"))
        with pytest.raises(ModelError, match=r"lack 3 \('model.layers.0.mlp"):
            self.make(policy, len_reward, tiny_tokenizer, tmp_path / "run", beta=0.1)

    def test_a_reward_model_that_is_none(self, tiny_policy_folder, tiny_tokenizer, tmp_path):
        with pytest.raises(ModelError, match=r"LlamaForSequenceClassification in .* lack 1 \('score.weight'\)"):
            self.make(str(tiny_policy_folder), str(tiny_policy_folder), tiny_tokenizer, tmp_path / "run")


def len_reward(completions, **columns):
    return [float(len(text)) for text in completions]


@pytest.mark.parametrize("kind", ["policy", "reward model", "pairs"])
def test_a_model_with_code_of_its_own_is_told_so(kind, tiny_policy_folder):
    from dqo.rewards.reward_model import RewardModel

    config = json.loads((tiny_policy_folder / "config.json").read_text())
    names = dict.fromkeys(["AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification"], "own.Own")
    (tiny_policy_folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": names}))
    load = {"policy": load_policy, "reward model": RewardModel, "pairs": Entailment}[kind]
    with pytest.raises((ModelError, EncoderError), match="it brings code of its own, which dqo never runs"):
        load(str(tiny_policy_folder))


def bare_loads(source):
    """Calls that load weights without `load_whole`, or in another library without `check_loaded` after it."""
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    ours = [name for name in calls if name.startswith("AutoModel") and name.endswith(".from_pretrained")]
    others = {"SentenceTransformer", "CrossEncoder", "PeftModel.from_pretrained"}.intersection(calls)
    return ours + sorted(() if "check_loaded" in calls else others)


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda path: path.relative_to(SRC).as_posix())
def test_no_module_loads_weights_unchecked(path):
    assert bare_loads(path.read_text()) == []


def test_the_check_of_the_source_can_fail():
    assert bare_loads("m = AutoModelForCausalLM.from_pretrained(x)") == ["AutoModelForCausalLM.from_pretrained"]
    assert bare_loads("def load():\n    return SentenceTransformer(x)") == ["SentenceTransformer"]
    assert bare_loads("load_whole(AutoModel, x, 'a', 'b')\nm = SentenceTransformer(x)\ncheck_loaded(m, x)") == []
