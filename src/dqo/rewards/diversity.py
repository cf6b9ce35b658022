"""DQO as a reward function of an unmodified TRL trainer: the credit of each response, alpha in reward_weights."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from dqo.core import blocks
from dqo.diversity.credit import group_credit
from dqo.diversity.settings import DiversitySpec, EncoderFields
from dqo.embedders import Embedder, chosen_embedder
from dqo.errors import GroupError
from dqo.models.chat import TraceMarkers, completion_text
from dqo.rewards.calling import CheckedReward
from dqo.rewards.loading import checked_span

Quality = Callable[..., Sequence[float | None]]


class DiversityReward:
    """Pays each response its leave-one-out credit, in `reward_funcs` of TRL's GRPOTrainer or RLOOTrainer.

        GRPOTrainer(..., reward_funcs=[quality, DiversityReward(num_generations=8)],
                    args=GRPOConfig(..., num_generations=8, reward_weights=[1.0, 0.5], scale_rewards="batch"))

    A reward function sees only its own process's rows, which may hold part of a group. All ranks call it in step, so
    it gathers embeddings and prompts, computes whole groups, and returns its own rows. Alpha is the reward weight.

    Prefer `scale_rewards="batch"` or "none": under "group", where the task rewards of a group tie, the credit's
    spread is blown up to unit variance whatever alpha is.

    Args:
        num_generations: Responses per prompt G, the trainer's. It must be given: two of four equal prompts look like a
            group of two. At least 3, because at 2 both credits are equal and cancel in the group mean.
        num_generations_eval: The trainer's, where it differs. A batch whose prompts fit both sizes is read as groups
            of the larger.
        encoder: Name or folder of an encoder with its options (see load_embedder), or a callable list[str] -> (N, D).
        kernel: "cosine", "gaussian" or "linear".
        sigma: Bandwidth of the Gaussian kernel.
        ridge: Regularisation strength > 0.
        credit_scale: "nats" or "unit".
        quality: Task reward in [0, 1], called as TRL calls reward functions. Given, responses span by their quality
            (the quality-weighted volume) and a None stays None, so that unscorable rows get no reward from here.
        text: Completion text -> the span to embed; the whole text without it.
        trace_markers: Reasoning traces that are removed before, see `dqo.models.chat.TraceMarkers.parse`.

    Raises:
        GroupError: Fewer than 3 responses per group; when called, a partial group or prompts that disagree in a block.

    Source: docs/math.md eq. 3.2 and 4.2.
    """

    def __init__(
        self,
        num_generations: int,
        num_generations_eval: int | None = None,
        encoder: str | Embedder = EncoderFields.encoder,
        kernel: str = DiversitySpec.kernel,
        sigma: float | None = DiversitySpec.sigma,
        ridge: float = DiversitySpec.ridge,
        credit_scale: str = DiversitySpec.credit_scale,
        quality: Quality | None = None,
        text: Callable[[str], str] | None = None,
        trace_markers: str = EncoderFields.trace_markers,
    ) -> None:
        if num_generations < 3:
            why = "in a group of two both credits are equal and cancel in the group mean; sample more responses"
            raise GroupError(f"DiversityReward needs `num_generations` of at least 3, got {num_generations}: {why}.")
        self.__name__ = "diversity"
        self.group_sizes = sorted({num_generations, num_generations_eval or num_generations}, reverse=True)
        combine = "add" if quality is None else "quality_weighted"
        self.spec = DiversitySpec(kernel=kernel, sigma=sigma, ridge=ridge, credit_scale=credit_scale, combine=combine)
        self.embed = chosen_embedder(encoder)
        self.quality = None if quality is None else CheckedReward(quality)
        self.text = checked_span(text)
        self.markers = TraceMarkers.parse(trace_markers)

    def __call__(self, prompts: list, completions: list, **columns: Any) -> list[float | None]:
        """Credit of this process's rows, in the spec's unit; None where quality is None."""
        spans = [self.text(completion_text(completion, self.markers)) for completion in completions]
        E = self.embed(spans)  # (N_local, D)
        quality = None
        if self.quality is not None:
            quality = self.quality(prompts=prompts, completions=completions, **columns)
        if "environments" in columns:
            # They write observations into prompts, so that the data set's columns tell groups apart.
            table = {name: values for name, values in columns.items() if isinstance(values, list)}
            own = {"environments", "completion_ids"}  # of each rollout
            prompts = [{name: table[name][i] for name in table.keys() - own} for i in range(len(prompts))]
        keys = [prompt_key(prompt) for prompt in prompts]
        # A view would take its whole tensor.
        parts, rank = gathered((keys, E.cpu().clone(), quality or [None] * len(E)))
        start = sum(len(part[0]) for part in parts[:rank])
        keys = [key for part in parts for key in part[0]]
        credits = self._credits(keys, torch.cat([part[1] for part in parts]), [q for part in parts for q in part[2]])
        return credits[start : start + len(completions)]

    def _credits(self, keys: list[str], E: torch.Tensor, quality: list[float | None]) -> list[float | None]:
        """Credits of all processes' rows: N keys, (N, D) embeddings and N qualities -> N credits."""
        P = blocks(len(keys), self._group_size(keys), keys)
        if self.quality is None:
            return group_credit(E.unflatten(0, (P, -1)), self.spec).credit.flatten().tolist()
        reward = torch.tensor([torch.nan if q is None else q for q in quality], dtype=torch.float64)  # (N,)
        scored = ~reward.isnan()  # (N,)
        E = (E * scored.unsqueeze(-1)).unflatten(0, (P, -1))  # (P, G, D)
        credit = group_credit(E, self.spec, reward.unflatten(0, (P, -1))).credit.flatten()  # (N,)
        return [c if s else None for c, s in zip(credit.tolist(), scored.tolist(), strict=True)]

    def _group_size(self, keys: list[str]) -> int:
        """The larger of the training and evaluation sizes if the prompts fit its blocks; else the smaller."""
        for size in self.group_sizes[:-1]:
            if len(keys) % size == 0 and all(key == keys[row - row % size] for row, key in enumerate(keys)):
                return size
        return self.group_sizes[-1]


def prompt_key(prompt: Any) -> str:
    """Makes a short stable digest of a prompt, string or conversation, by which processes agree on groups."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=_content)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _content(value: Any) -> str:
    """An image by its pixels: TRL decodes it anew for every row, and its name in memory differs."""
    if hasattr(value, "tobytes"):
        shape = getattr(value, "size", None), getattr(value, "shape", None)
        return f"{type(value).__name__} {shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    return str(value)


def gathered(part: Any) -> tuple[list, int]:
    """Collects every process's part in rank order, with our rank; our own part alone where nothing is distributed."""
    if not (dist.is_available() and dist.is_initialized()):
        return [part], 0
    parts: list = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return parts, dist.get_rank()
