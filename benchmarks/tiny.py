"""A policy small enough to train for real in a second: a random two-layer Llama over a word-level vocabulary."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["the", "a", "dog", "cat", "bird", "runs", "sings", "sleeps", "eats", "red", "blue", "green", "big", "small"]
CHAT = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def save_tiny_policy(folder: Path) -> None:
    """Writes model and tokenizer, the same every time, as a Hugging Face folder."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left",
        chat_template=CHAT,
    )  # fmt: skip
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    policy = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, pad_token_id=0, eos_token_id=1,
            bos_token_id=None,
        )
    )  # fmt: skip
    torch.random.set_rng_state(state)
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
