"""A reward model of the hub: a sequence classifier with one label, whose score is the reward."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from dqo.errors import ModelError
from dqo.models.chat import chat_text, completion_text, conversation, prompt_text
from dqo.models.policy import best_device, find_model
from dqo.models.weights import load_whole, read_part

# Tokens where neither tokenizer nor model says how many it reads.
_LONGEST = 4096
_REMEDY = "use a model that was trained as a reward model"


class RewardModel:
    """The score of a sequence classifier for prompt and response; a reward in TRL's convention.

    A tokenizer with a chat template gets the conversation, one without gets prompt and response as a pair. A
    conversation longer than the model reads loses its beginning, so that the response stays; `counts` says how many.

    Args:
        model: Folder or hub name; safetensors only, no code of the model's own is run.
        device: Device of torch; None takes the accelerator where there is one.
        dtype: "float32", "bfloat16" or "float16"; None for bfloat16 on an accelerator and float32 on a CPU.
        batch_size: Responses scored at once; one by one where neither model nor tokenizer has a token to pad with.

    Raises:
        ModelError: No such model, no classifier, or one with more than one label.
    """

    def __init__(
        self,
        model: str,
        device: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        batch_size: Annotated[int, Field(ge=1)] = 8,
    ):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.__name__ = "reward_model"
        source = check_outline(model)
        what = f"reward model {model!r} to be a sequence classifier in safetensors format with its tokenizer"
        self._tokenizer = read_part(AutoTokenizer, source, "tokenizer of a reward model")
        self._tokenizer.truncation_side = "left"
        self._device = torch.device(device or best_device())
        dtype = dtype or ("float32" if self._device.type == "cpu" else "bfloat16")
        self._model = load_whole(
            AutoModelForSequenceClassification, source, what, _REMEDY, device=self._device, dtype=getattr(torch, dtype)
        ).requires_grad_(False)
        reads = min(self._tokenizer.model_max_length, getattr(self._model.config, "max_position_embeddings", _LONGEST))
        self._max_length = int(reads if reads < 10**6 else _LONGEST)
        self._batch_size = batch_size if self._has_padding() else 1
        self._shortened = 0

    def counts(self) -> dict[str, int]:
        """Conversations that were longer than the model reads, so far."""
        return {"shortened": self._shortened}

    @torch.no_grad()
    def __call__(self, *, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Scores N responses; N numbers without bounds."""
        rows = [self._encode(*row) for row in zip(prompts, completions, strict=True)]
        # Little padding in a batch.
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))
        scores = torch.zeros(len(rows), dtype=torch.float64)  # (N,)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            scores[batch] = self._score([rows[row] for row in batch])
        return scores.tolist()

    def _encode(self, prompt: Any, completion: Any) -> dict[str, list[int]]:
        response, options = str(completion_text(completion)), {}
        texts = [prompt_text(prompt), response]
        if self._tokenizer.chat_template:
            asked = conversation(prompt) if isinstance(prompt, str) else list(prompt)
            talk = [*asked, {"role": "assistant", "content": response}]
            texts = [chat_text(self._tokenizer, talk, answer_next=False)]
            # The template wrote the special tokens, and of one text there is one type.
            options = {"add_special_tokens": False, "return_token_type_ids": False}
        row = self._tokenizer(*texts, verbose=False, **options)
        if len(row["input_ids"]) > self._max_length:
            self._shortened += 1
            row = self._tokenizer(*texts, truncation=True, max_length=self._max_length, **options)
        return dict(row)

    def _has_padding(self) -> bool:
        """Whether rows can be padded without moving the token whose score counts; sets both pad tokens."""
        # The score is that of the last token which is not `config.pad_token_id`, so the model's own setting stays as it
        # was trained, be it eos. A model without one scores the very last token, and takes the tokenizer's only where
        # no row ends in it: many templates close with eos, which many tokenizers pad with.
        config, tokenizer = self._model.config.get_text_config(), self._tokenizer
        if config.pad_token_id is None and tokenizer.pad_token_id not in self._encode("a", "b")["input_ids"]:
            config.pad_token_id = tokenizer.pad_token_id  # which may be None too
        pad = config.pad_token_id
        # Some configs say -1 for none.
        if pad is None or not 0 <= pad < len(tokenizer):
            return False
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
        return tokenizer.pad_token is not None

    def _score(self, rows: list[dict[str, list[int]]]) -> Tensor:
        """(B,) scores in float64 on the CPU."""
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        # A tokenizer without a token for it refuses even where nothing is to be filled.
        pads = len(rows) > 1
        padded = self._tokenizer.pad(columns, padding=pads, return_tensors="pt").to(self._device)  # (B, T) each
        return self._model(**padded).logits[:, 0].double().cpu()


def check_outline(name: str) -> str:
    """Refuses what is no reward model, from its config alone, and returns where its files are."""
    from transformers import AutoConfig

    source = find_model(name)
    config = read_part(AutoConfig, source, "config of a reward model")
    [kind, *_] = config.architectures or ["a model that does not say what it is"]
    is_classifier = kind.endswith("SequenceClassification")
    if not is_classifier or config.num_labels != 1:
        got = f"{config.num_labels} labels" if is_classifier else kind
        expected = f"reward model {name!r}: expected a sequence classifier with one label, whose score is the reward"
        raise ModelError(f"{expected}, got {got}; {_REMEDY}, or write a function that returns what you want of it.")
    return source
