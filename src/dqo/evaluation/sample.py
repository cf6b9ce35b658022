"""Responses of a model to prompts: n a prompt, the same whatever the batch, appended to a file as they come.

Every response has random numbers of its own, seeded by (seed, prompt id, sample number). So a sample does not depend
on the batch it was drawn in, on n, on the other prompts or on a restart, up to the rounding of a batched forward pass:
about one token in a million may fall on the other side of a boundary.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dqo.errors import DataError
from dqo.records import Group, Prompt, append_jsonl, read_groups, write_json, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def sample_groups(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    n: int,
    *,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 1.0,
    out: str | Path | None = None,
) -> list[Group]:
    """Draw n responses a prompt from the model's own distribution softmax(logits / temperature), nothing cut off.

    The model's generation defaults (top-k, top-p, repetition penalty, ...) are set aside, because they would change
    the diversity that is to be measured. A tokenizer with a chat template gets the prompt as a user message; one
    without gets the plain text.

    Args:
        model: A causal language model, on the device it shall run on.
        tokenizer: Its tokenizer; the padding side and token it is set to do not matter.
        prompts: What to ask, ids unique.
        n: Responses a prompt.
        seed: Any whole number.
        max_new_tokens: Longest response in tokens; one that reaches it has `finish` "length", the others "eos".
        batch_size: Responses generated at a time; they may belong to several prompts, or to a part of one.
        temperature: Above 0.
        out: Folder for `groups.jsonl`, which gets each group when it is complete, and `sampling.json`. Where the folder
            holds an unfinished run of the same settings, its groups are kept and only the rest is sampled.

    Returns:
        One group a prompt, in the prompts' order, rewards None.

    Raises:
        DataError: If a number is out of range, a prompt does not fit the model's context, or the folder holds a run
            of other settings, weights or prompts.
    """
    _check_settings(n=n, max_new_tokens=max_new_tokens, batch_size=batch_size, temperature=temperature)
    source = _Source(model, tokenizer, seed, max_new_tokens, temperature)
    encoded = {prompt.id: source.encode(prompt) for prompt in prompts}
    done = {} if out is None else _resume(Path(out), source.settings() | {"n": n}, prompts)
    waiting = {prompt.id: prompt for prompt in prompts if prompt.id not in done}
    rows = [(prompt_id, number) for prompt_id in waiting for number in range(n)]
    drawn: dict[str, list[tuple[str, str]]] = {prompt_id: [] for prompt_id in waiting}
    with source.plain_decoding(), tqdm(total=len(rows), desc="sampling", unit="response", disable=not rows) as bar:
        for first in range(0, len(rows), batch_size):
            batch = rows[first : first + batch_size]
            for (prompt_id, _), answer in zip(batch, source.draw(batch, encoded), strict=True):
                drawn[prompt_id].append(answer)
                if len(drawn[prompt_id]) == n:
                    done[prompt_id] = _finished(waiting[prompt_id], drawn.pop(prompt_id), out)
            bar.update(len(batch))
    return [done[prompt.id] for prompt in prompts]


class SeededChoice:
    """Logits processor that draws each row's next token with that row's own random numbers, by inverse CDF.

    Args:
        uniforms: (N, T) numbers in [0, 1), one a row and token.
        temperature: Above 0.
        start: Length of the padded prompt, so that the token's place can be told.
    """

    def __init__(self, uniforms: Tensor, temperature: float, start: int):
        self.uniforms, self.temperature, self.start = uniforms, temperature, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """All scores -inf, except that of the drawn token, which greedy decoding then takes."""
        # A float32 running sum over 50,000 tokens is off by more than the rarest weigh; Apple GPUs have nothing better.
        dtype = torch.float32 if scores.device.type == "mps" else torch.float64
        cdf = (scores.to(dtype) / self.temperature).softmax(dim=-1).cumsum(dim=-1)  # (N, V)
        u = self.uniforms[:, input_ids.shape[1] - self.start, None].to(cdf)  # (N, 1)
        token = torch.searchsorted(cdf, u * cdf[:, -1:], right=True).clamp_max(cdf.shape[1] - 1)  # (N, 1)
        return torch.full_like(scores, float("-inf")).scatter_(1, token, 0.0)  # (N, V)


@dataclass(frozen=True)
class _Source:
    """A model with everything that decides what it says."""

    model: Any
    tokenizer: Any
    seed: int
    max_new_tokens: int
    temperature: float

    def settings(self) -> dict[str, Any]:
        """What two runs must have in common for their samples to be of one kind."""
        # A few numbers of every weight: a model trained further under the same name is another model.
        heads = [weight.detach().flatten()[:8].float().cpu() for weight in self.model.parameters()]
        return {
            "model": self.model.config._name_or_path,
            "weights": hashlib.sha256(torch.cat(heads).numpy().tobytes()).hexdigest()[:16],
            "chat_template": bool(self.tokenizer.chat_template),
            "seed": self.seed,
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
        }

    @cached_property
    def stops(self) -> list[int]:
        own = self.model.generation_config.eos_token_id
        stops = [self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
        return sorted({token for token in stops if token is not None})

    def encode(self, prompt: Prompt) -> list[int]:
        if self.tokenizer.chat_template:
            message = [{"role": "user", "content": prompt.prompt}]
            text = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]  # the template wrote them already
        else:
            ids = self.tokenizer(prompt.prompt)["input_ids"]
        room = getattr(self.model.config, "max_position_embeddings", None)
        if not ids or (room and len(ids) + self.max_new_tokens > room):
            raise DataError(
                f"Prompt {prompt.id!r} must have at least one token and leave {self.max_new_tokens} of the model's "
                f"{room} for the response, got {len(ids)} tokens; shorten it or lower `max_new_tokens`."
            )
        return ids

    @contextmanager
    def plain_decoding(self) -> Iterator[None]:
        """The model in evaluation mode and without generation defaults of its own, and back again."""
        from transformers import GenerationConfig

        was_training, own = self.model.training, self.model.generation_config
        plain = GenerationConfig(
            max_new_tokens=self.max_new_tokens, do_sample=False, eos_token_id=self.stops or None, pad_token_id=self._pad
        )
        self.model.eval()
        self.model.generation_config = plain
        try:
            yield
        finally:
            self.model.generation_config = own
            self.model.train(was_training)

    def draw(self, rows: list[tuple[str, int]], encoded: dict[str, list[int]]) -> list[tuple[str, str]]:
        """Text and finish of each (prompt id, sample number)."""
        prompts = [encoded[prompt_id] for prompt_id, _ in rows]
        width = max(map(len, prompts))
        padding = [width - len(ids) for ids in prompts]
        ids = [[self._pad] * pad + ids for pad, ids in zip(padding, prompts, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in padding]
        uniforms = torch.stack([_uniforms(self.seed, *row, self.max_new_tokens) for row in rows])  # (N, T)
        whole = self.model.generate(  # (N, width + T)
            input_ids=torch.tensor(ids, device=self.model.device),  # (N, width)
            attention_mask=torch.tensor(mask, device=self.model.device),  # (N, width)
            logits_processor=[SeededChoice(uniforms, self.temperature, width)],
        )
        return [self._answer(tokens) for tokens in whole[:, width:].tolist()]

    def _answer(self, tokens: list[int]) -> tuple[str, str]:
        length = next((place for place, token in enumerate(tokens) if token in self.stops), None)
        text = self.tokenizer.decode(tokens[:length], skip_special_tokens=True)
        return text, "length" if length is None else "eos"

    @property
    def _pad(self) -> int:
        return (self.stops or [0])[0]  # any token will do: the mask hides it, and an answer ends before it


def _finished(prompt: Prompt, answers: list[tuple[str, str]], out: str | Path | None) -> Group:
    texts, finish = [text for text, _ in answers], [end for _, end in answers]
    group = Group(prompt.id, prompt.prompt, prompt.reference, texts, finish, None, prompt.meta)
    if out is not None:
        append_jsonl(Path(out) / "groups.jsonl", vars(group))
    return group


def _uniforms(seed: int, prompt_id: str, number: int, length: int) -> Tensor:
    digest = hashlib.sha256(json.dumps([seed, prompt_id, number]).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
    return torch.rand(length, generator=generator, dtype=torch.float64)  # (T,)


def _check_settings(**settings: float) -> None:
    for name, value in settings.items():
        if not (0 < value < float("inf") if name == "temperature" else value == int(value) >= 1):
            kind = "a finite number above 0" if name == "temperature" else "a whole number of 1 or more"
            raise DataError(f"`{name}` must be {kind} to sample, got {value}.")


def _resume(out: Path, settings: dict[str, Any], prompts: Sequence[Prompt]) -> dict[str, Group]:
    """Groups the folder already holds, after checking that this run would have drawn the same."""
    record, path = out / "sampling.json", out / "groups.jsonl"
    if not record.exists():
        if path.exists():
            raise DataError(f"{path}: expected {record.name} beside it to resume from; choose another folder.")
        write_json(record, settings)
        return {}
    try:
        before = dict(json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{record}: expected the JSON object of an earlier run, got {error}; delete it.") from error
    for name, value in settings.items():
        if before.get(name) != value:
            raise DataError(
                f"{record}: expected {name} = {value!r} to resume sampling, got {before.get(name)!r}; "
                "choose another folder or delete this one."
            )
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]  # a kill in the middle of a write leaves half a line
    if whole != content:
        write_text(path, whole.decode())
    # Rewards of an earlier evaluation in the same folder are not this run's.
    done = {group.id: replace(group, rewards=None) for group in read_groups(path)} if whole else {}
    asked = {prompt.id: prompt.prompt for prompt in prompts}
    for group in done.values():
        if asked.get(group.id) != group.prompt:
            raise DataError(f"{path}: expected groups of the prompts given, got another prompt with id {group.id!r}; "
                            "choose another folder.")  # fmt: skip
    return done
