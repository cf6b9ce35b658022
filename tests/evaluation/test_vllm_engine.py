"""What is handed to vLLM and what is read from its answers, on a stand-in that records the calls.

docs/results.md ("vLLM") has runs on the real engine, which this project's environment does not hold.
"""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

from dqo.errors import ModelError
from dqo.evaluation.engines import Asked, VllmEngine
from dqo.evaluation.sampling import Plain, sample_from
from dqo.files.records import Prompt
from dqo.models.policy import DEFAULT_POLICY, find_model

ASKED = Asked(seed=3, max_new_tokens=8, temperature=1.0)
PROMPTS = [Prompt("one", "the cat runs", [], {}), Prompt("two", "a big dog", [], {})]


class CharacterTokenizer:
    """One token a character; its template opens a trace where it is told to."""

    chat_template, name_or_path = "a template", "characters"
    added_tokens_decoder: ClassVar[dict] = {}
    all_special_ids: ClassVar[list] = []
    all_special_tokens: ClassVar[list] = []

    def apply_chat_template(self, messages, tokenize, add_generation_prompt, enable_thinking=False):
        turns = "".join(f"{message['role']}: {message['content']}\n" for message in messages)
        return turns + "assistant:\n" + "<think>\n" * enable_thinking

    def __call__(self, text, add_special_tokens):
        return {"input_ids": list(map(ord, text))}

    def decode(self, ids, skip_special_tokens):
        return "".join(map(chr, ids))


class RecordingLLM:
    """Answers "<first line of the user's turn>:<seed>", cut off where the seed is even."""

    made: ClassVar[list] = []

    def __init__(self, **settings):
        if settings["model"] == "owner/broken":
            raise OSError("no such model")
        self.made.append(settings)
        self.calls = []

    def get_tokenizer(self):
        return CharacterTokenizer()

    def generate(self, prompts, settings, use_tqdm):
        texts = ["".join(map(chr, prompt["prompt_token_ids"])) for prompt in prompts]
        self.calls.append((texts, settings))
        return [
            SimpleNamespace(outputs=[SimpleNamespace(
                token_ids=[*map(ord, f"{text.partition('user: ')[2].partition(chr(10))[0]}:{s.seed}")],
                finish_reason="stop" if s.seed % 2 else "length")])
            for text, s in zip(texts, settings, strict=True)
        ]  # fmt: skip


@pytest.fixture
def vllm(monkeypatch):
    module = ModuleType("vllm")
    module.__version__ = "0"
    module.LLM = RecordingLLM
    module.SamplingParams = lambda **settings: SimpleNamespace(**settings)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(RecordingLLM, "made", [])
    on_the_hub = lambda name: find_model(name) if name == DEFAULT_POLICY else name  # noqa: E731
    monkeypatch.setattr("dqo.evaluation.engines.find_model", on_the_hub)
    return module


def test_the_default_policy_is_given_as_its_converted_folder(vllm):
    VllmEngine(DEFAULT_POLICY, ASKED)
    (made,) = RecordingLLM.made
    assert made["model"] == find_model(DEFAULT_POLICY) != DEFAULT_POLICY
    assert made["load_format"] == "safetensors"
    assert made["generation_config"] == "vllm", "the model's own top-k and penalties would change the distribution"


def test_answers_come_back_in_order_with_their_finish(vllm):
    engine = VllmEngine("owner/model", ASKED).at(0.7)
    groups = sample_from(engine, PROMPTS, 3, form=Plain())
    assert [group.id for group in groups] == ["one", "two"]
    seeds = [text.rsplit(":", 1) for group in groups for text in group.responses]
    assert [message for message, _ in seeds] == [p.prompt for p in PROMPTS for _ in range(3)]
    assert len({seed for _, seed in seeds}) == 6, "every response has a seed of its own"
    finish = [end for group in groups for end in group.finish]
    assert finish == ["eos" if int(seed) % 2 else "length" for _, seed in seeds]
    (_, settings), *_ = engine._engine.calls
    assert {(s.temperature, s.top_p, s.max_tokens) for s in settings} == {(0.7, 1.0, 8)}


def test_a_system_prompt_is_the_first_message(vllm):
    engine = VllmEngine("owner/model", replace(ASKED, system_prompt="Be brief."))
    sample_from(engine, PROMPTS[:1], 1)
    [(texts, _)] = engine._engine.calls
    assert texts == ["system: Be brief.\nuser: the cat runs\nassistant:\n"]
    assert engine.settings()["system_prompt"] == "Be brief."


def test_variables_of_the_chat_template_reach_the_engine_and_say_whether_a_trace_is_open(vllm):
    thinking = {"enable_thinking": True}
    engine = VllmEngine("m", replace(ASKED, chat_template_kwargs=thinking))
    sample_from(engine, PROMPTS[:1], 1)
    [(texts, _)] = engine._engine.calls
    assert texts[0].endswith("<think>\n")
    assert engine.settings()["chat_template_kwargs"] == thinking
    assert engine.settings()["prompt_opens_trace"] is True
    plain = VllmEngine("m", ASKED)
    assert plain.settings()["prompt_opens_trace"] is False


def test_what_vllm_cannot_load_is_one_sentence(vllm):
    with pytest.raises(ModelError, match=r"expected vLLM to load 'owner/broken', but it failed .*no such model"):
        VllmEngine("owner/broken", ASKED)


def test_without_vllm_the_message_names_the_ways(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match="needs the package vllm"):
        VllmEngine("owner/model", ASKED)
