"""A policy small enough to train for real in a test: a random two-layer Llama over a word-level vocabulary."""

import pytest
import torch

WORDS = [
    "the", "a", "dog", "cat", "bird", "runs", "sings", "sleeps", "eats", "red", "blue", "green", "big", "small", "old",
    "new", "house", "tree", "river", "and", "or", "not", "with", "near", "over", "under", "fast", "slow", "happy",
    "sad",
]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Word-level tokenizer with chat template, eos, and left padding, as a policy's tokenizer has."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", "user", "assistant", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    return tokenizer


@pytest.fixture
def tiny_policy(tiny_tokenizer):
    """A fresh copy of the same random policy for every test."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=tiny_tokenizer.pad_token_id,
        eos_token_id=tiny_tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    torch.random.set_rng_state(state)
    return model


@pytest.fixture
def tiny_policy_folder(tiny_policy, tiny_tokenizer, tmp_path):
    """The tiny policy saved as a Hugging Face folder, as `--model` takes it."""
    folder = tmp_path / "tiny-policy"
    tiny_policy.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder
