"""Reasoning traces and tool turns in real training steps: what rewards and the encoder get, and what the log says."""

import copy

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dqo import DQOConfig, DQORLOOConfig, DQORLOOTrainer, DQOTrainer
from dqo.embedders import load_embedder
from dqo.models.chat import completion_text
from dqo.rewards.shape import FormatReward

TRAINERS = [(DQOTrainer, DQOConfig), (DQORLOOTrainer, DQORLOOConfig)]
# Answers "dog", "dog", none, "cat"; the traces all differ, and hold the right answer where the response does not.
ROWS = [
    "<think> cat runs </think> dog <eos>",
    "<think> bird sings near </think> dog <eos>",
    "<think> cat old tree",
    "<think> not sad </think> cat <eos>",
]


@pytest.fixture
def thinking_tokenizer(tiny_tokenizer):
    """Two special tokens more, as the markers of some models are."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(tiny_tokenizer.backend_tokenizer),
        pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left",
        additional_special_tokens=["<think>", "</think>"],
    )  # fmt: skip
    tokenizer.chat_template = tiny_tokenizer.chat_template
    return tokenizer


def policy_of(tokenizer):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    ))  # fmt: skip


def make(trainer_class, config_class, tokenizer, folder, rows, reward, prompt="the dog", **settings):
    """A trainer that samples what is scripted; everything else is its own."""
    scripted = [tokenizer.convert_tokens_to_ids(row.split()) for row in rows]
    embed = load_embedder("hashed")

    class Scripted(trainer_class):
        def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *args):
            ids = [list(row) for row in scripted]
            return ids if issubclass(trainer_class, DQORLOOTrainer) else (ids, None)

        def _calculate_rewards(self, *args):
            self.table = super()._calculate_rewards(*args)
            return self.table

    def embedder(texts):
        Scripted.embedded = list(texts)
        return embed(texts)

    options = {
        "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 8, "use_cpu": True,
        "bf16": True, "report_to": [], "save_strategy": "no", "max_steps": 1, "beta": 0.0, "alpha": 1.0,
    }  # fmt: skip
    args = config_class(str(folder), **options | settings)
    data = Dataset.from_list([{"prompt": prompt}] * 4)
    extra = {"embedder": embedder}
    return Scripted(policy_of(tokenizer), reward, args=args, train_dataset=data, processing_class=tokenizer, **extra)


def logged(trainer):
    return next(line for line in trainer.state.log_history if "loss" in line)


@pytest.mark.parametrize("prompt", ["the dog", [{"role": "user", "content": "the dog"}]], ids=["text", "chat"])
@pytest.mark.parametrize(("trainer_class", "config_class"), TRAINERS, ids=["grpo", "rloo"])
def test_rewards_and_encoder_get_what_stands_after_the_trace(
    trainer_class, config_class, prompt, thinking_tokenizer, tmp_path
):
    seen = []

    def right(completions, **columns):  # a user's own function: TRL's completions, unchanged
        seen.extend(completions)
        return [float(completion_text(completion) == "cat") for completion in completions]

    reward = [right, FormatReward(r"\Acat\Z")]
    trainer = make(trainer_class, config_class, thinking_tokenizer, tmp_path, ROWS, reward, prompt)
    trainer.train()
    assert trainer.table[:, 0].tolist() == trainer.table[:, 1].tolist() == [0, 0, 0, 1]
    assert trainer.embedded == ["dog", "dog", "", "cat"]
    raw = "not sad cat"  # TRL leaves special tokens out
    assert seen[3] == (raw if isinstance(prompt, str) else [{"role": "assistant", "content": raw}])
    assert logged(trainer)["responses/traced"] == 1.0
    assert logged(trainer)["responses/unclosed"] == 0.25
    credit = trainer.table[:, 2]
    assert credit[0] == pytest.approx(torch.log(torch.tensor(3 / 2)).item(), abs=1e-4), "one of two equal answers"
    assert credit[3] == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-4), "the only one of its kind"
    assert credit[2] == pytest.approx(0.0, abs=1e-4), "no answer"


@pytest.mark.parametrize(("trainer_class", "config_class"), TRAINERS, ids=["grpo", "rloo"])
def test_a_template_that_opens_the_trace(trainer_class, config_class, thinking_tokenizer, tmp_path):
    """Only the closing marker is sampled, and a response cut off within its trace shows none at all."""
    thinking_tokenizer.chat_template = thinking_tokenizer.chat_template.replace(
        "assistant {% endif %}",
        "assistant {% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}{% endif %}",
    )
    rows = [row.removeprefix("<think> ") for row in ROWS]
    chat = [{"role": "user", "content": "the dog"}]

    def train(**settings):
        reward = FormatReward(r"\Acat\Z")
        trainer = make(trainer_class, config_class, thinking_tokenizer, tmp_path, rows, reward, chat, **settings)
        trainer.train()
        return trainer

    trainer = train()
    assert trainer.embedded == ["dog", "dog", "", "cat"]
    assert logged(trainer)["responses/unclosed"] == 0.25
    trainer = train(chat_template_kwargs={"enable_thinking": False})
    assert trainer.embedded == ["dog", "dog", "cat old tree", "cat"], "nothing was opened"
    assert train(trace_markers="off").embedded[3] == "not sad cat"


def test_markers_of_one_s_own_are_words_of_the_vocabulary(tiny_tokenizer, tmp_path):
    rows = ["red cat runs blue dog", "red cat blue dog", "red old red", "dog <eos>"]
    settings = {"trace_markers": "red...blue"}
    trainer = make(DQOTrainer, DQOConfig, tiny_tokenizer, tmp_path, rows, FormatReward("dog"), **settings)
    trainer.train()
    assert trainer.embedded == ["dog", "dog", "", "dog"]
    assert logged(trainer)["responses/traced"] == 0.75


def test_what_an_environment_wrote_is_neither_judged_nor_embedded(thinking_tokenizer, tmp_path):
    """Two turns of the policy around an answer of a tool, as `rollout_func` marks them."""
    tokenizer = thinking_tokenizer
    policy_turns = ["<think> old </think> the dog", "<think> sad </think> runs <eos>"]
    words = [*policy_turns[0].split(), "assistant", "tree", *policy_turns[1].split()]
    mask = [1] * 5 + [0, 0] + [1] * 5

    def rollout(prompts, trainer):
        ids = tokenizer.convert_tokens_to_ids(words)
        return {
            "prompt_ids": [tokenizer("the dog")["input_ids"]] * len(prompts),
            "completion_ids": [list(ids) for _ in prompts],
            "logprobs": [[0.0] * len(ids) for _ in prompts],
            "env_mask": [list(mask) for _ in prompts],
        }

    embedded = []

    def embedder(texts):
        embedded.extend(texts)
        return load_embedder("hashed")(texts)

    args = DQOConfig(
        str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=16, use_cpu=True,
        bf16=True, report_to=[], save_strategy="no", max_steps=1,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": "the dog"}] * 4)
    trainer = DQOTrainer(
        policy_of(tokenizer), FormatReward("tree"), args=args, train_dataset=data, processing_class=tokenizer,
        embedder=embedder, rollout_func=rollout,
    )  # fmt: skip
    trainer.train()
    assert embedded == ["the dog\nruns"] * 4
    assert logged(trainer)["quality"] == 0.0, "the tool's word earns nothing"


CALL = '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 2}}</tool_call>'


def add(a: int, b: int) -> str:
    """Adds.

    Args:
        a: One number.
        b: The other.

    Returns:
        What no response may be credited for.
    """
    return "TOOL OUTPUT"


@pytest.fixture
def calling_tokenizer():
    """One token a character, with a template and a parser for tool calls."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens = ["<pad>", "<eos>", "<unk>", *map(chr, range(10, 127))]
    raw = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{% if m['content'] is string %}{{ m['content'] }}{% endif %}"
        "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    call = {"type": "function", "function": "{content}"}
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "[assistant]",
        "fields": {
            "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*", "content": "text"},
            "tool_calls": {"open": "<tool_call>", "close_pattern": r"</tool_call>\s*", "repeats": True,
                           "content": "json", "transform": call},
            "content": {"close_pattern": r"<eos>\s*", "content": "text"},
        },
    }  # fmt: skip
    return tokenizer


def test_all_turns_around_a_tool_call_are_one_text(calling_tokenizer, tmp_path):
    """TRL's own loop of tool calls: it parses the call, runs the tool, and samples the next turn."""
    turns = iter([f"<think>hm</think>Let me add.{CALL}", "<think>so</think>It is 4."])

    class Scripted(DQOTrainer):
        def _generate_single_turn(self, prompt_ids, *args, **kwargs):
            ids = calling_tokenizer(next(turns))["input_ids"] + [calling_tokenizer.eos_token_id]
            return [list(ids) for _ in prompt_ids], None

    embedded = []

    def embedder(texts):
        embedded.extend(texts)
        return load_embedder("hashed")(texts)

    args = DQOConfig(
        str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=400, use_cpu=True,
        bf16=False, report_to=[], save_strategy="no", max_steps=1,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": "2+2?"}]}] * 4)
    trainer = Scripted(
        policy_of(calling_tokenizer), FormatReward("TOOL OUTPUT"), args=args, train_dataset=data,
        processing_class=calling_tokenizer, embedder=embedder, tools=[add],
    )  # fmt: skip
    trainer.train()
    assert embedded == [f"Let me add.{CALL}\nIt is 4."] * 4
    assert logged(trainer)["tools/call_frequency"] == 1.0, "the tool was called"
    assert logged(trainer)["quality"] == 0.0
