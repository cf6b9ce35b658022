"""TRL's log-probability head on a CPU: its numbers in a fraction of its time and memory.

TRL's head cuts the vocabulary into tiles of 32,768 tokens. On a CPU each makes some ten float32 tensors of that width,
whose memory the system maps and clears anew, and the products of the backward pass run in float32. Here a tile stays
in the processor's cache, the next one takes its memory, and products run in bf16 where the processor has them.

Notation: K scored positions, D width, V vocabulary, W tokens of a tile.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl.trainer import utils

from dqo.integrations.trl.seams import fused_head

_TRLS_HEAD = fused_head()
# Measured with V = 49,152, D = 576 and 1,024 positions in bf16: 2**21 takes a tenth more time, 2**22 a quarter, 2**23
# half. With 64 positions all are alike.
TILE = 2**20  # logits of a tile
NARROWEST, WIDEST = 1024, 8192  # tokens of a tile


@contextmanager
def faster_head() -> Iterator[None]:
    """Lets models prepared by TRL's `add_fused_lm_head` score with `TiledLogProbs`, inside the context."""
    if _TRLS_HEAD is None:
        yield
        return
    # TRL's forward looks its head up by this name on every call. The numbers are equal, so it does no harm when another
    # thread's model meets ours meanwhile, or keeps it.
    before, utils._ChunkedLogProbFunction = utils._ChunkedLogProbFunction, _STAND_IN
    try:
        yield
    finally:
        utils._ChunkedLogProbFunction = before


@torch.compiler.disable
def _apply(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
    chunk_size: int,
    final_logit_softcapping: float | None = None,
    logit_scale: float = 1.0,
    outputs: tuple[str, ...] = (),
) -> tuple[Tensor | None, ...]:
    """What `apply` of TRL's head takes and returns."""
    # The weight is whole: under ZeRO-3 no prompts are shared, and FSDP gathers it before.
    ours = (
        hidden.device.type == "cpu"  # elsewhere TRL has kernels
        and hidden.dtype != torch.float64
        and final_logit_softcapping is None  # Gemma's, whose windowed attention shares no prompts
        and bias is None  # few models have one
        and {"log_probs", "entropy"}.issuperset(outputs)  # the trainers ask for no more
    )
    if not ours:
        options = temperature, chunk_size, final_logit_softcapping, logit_scale, outputs
        return _TRLS_HEAD.apply(hidden, weight, bias, targets, *options)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype  # of TRL's logits
    # bf16 without matrix tiles (AMX) is slower than float32, up to 20 times.
    dtype = dtype if dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported() else torch.float32
    scale = logit_scale / temperature
    return *TiledLogProbs.apply(hidden, weight, targets, scale, "entropy" in outputs, dtype), None, None, None


_STAND_IN = SimpleNamespace(apply=_apply)  # one object, or torch.compile would compile anew for each


class TiledLogProbs(torch.autograd.Function):
    """Log-probabilities and entropies under softmax(scale * hidden @ weight.T), without keeping the logits.

    Takes hidden states (K, D), weight (V, D), targets (K,) long, the scale of the logits, whether entropies are asked
    for, and the dtype of products; returns log-probabilities (K,) and entropies (K,) or None, float32, in nats.
    Reductions are float32 whatever the products.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, with_entropy: bool, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """Reduce the logits tile by tile, with the highest so far in the exponent's place."""
        ctx.set_materialize_grads(False)
        total, weighted, chosen = hidden.new_zeros(3, len(hidden), 1, dtype=torch.float32)  # (K, 1) each
        top = torch.full_like(total, -torch.inf)  # (K, 1)
        for columns, _, logits in _Tiles(hidden.to(dtype), weight, scale):
            place, inside = _place(targets, columns)
            chosen.add_(logits.gather(1, place) * inside)
            before, top = top, torch.maximum(top, logits.amax(1, keepdim=True))  # (K, 1)
            shrink = (before - top).exp_()  # (K, 1)
            exponents = logits.sub_(top)  # (K, W)
            powers = exponents.exp() if with_entropy else exponents.exp_()  # (K, W)
            sums = powers.sum(1, keepdim=True)  # (K, 1)
            total.mul_(shrink).add_(sums)
            if with_entropy:  # sum of power times logit
                weighted.mul_(shrink).add_(exponents.mul_(powers).sum(1, keepdim=True)).add_(top * sums)
        log_z = total.log().add_(top)  # (K, 1)
        entropy = log_z - weighted / total if with_entropy else None  # (K, 1)
        ctx.save_for_backward(hidden, weight, targets, log_z, entropy)
        ctx.scale, ctx.dtype = scale, dtype
        return (chosen - log_z).squeeze(1), None if entropy is None else entropy.squeeze(1)

    @staticmethod
    def backward(ctx: Any, by_logps: Tensor | None, by_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute the logits again, turn each tile into its gradient in place, and multiply."""
        hidden, weight, targets, log_z, entropy = ctx.saved_tensors
        rounded = hidden.to(ctx.dtype)  # (K, D)
        by_hidden = torch.zeros_like(hidden, dtype=torch.float32) if ctx.needs_input_grad[0] else None  # (K, D)
        by_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None  # (V, D)
        by_logps = torch.zeros_like(log_z) if by_logps is None else ctx.scale * by_logps[:, None]  # (K, 1)
        by_entropy = None if by_entropy is None else ctx.scale * by_entropy[:, None]  # (K, 1)
        tiles = _Tiles(rounded, weight, ctx.scale)
        for columns, rows, logits in tiles:
            tile = _by_logits(logits.sub_(log_z), entropy, by_logps, by_entropy)  # (K, W)
            place, inside = _place(targets, columns)
            tile = tiles.rounded(tile.scatter_add_(1, place, by_logps * inside))  # (K, W)
            if by_hidden is not None:
                _add_product(by_hidden, tile, rows)
            if by_weight is not None:  # each row of it comes from one tile
                _put_product(by_weight[columns], tile.T, rounded)
        return None if by_hidden is None else by_hidden.to(hidden.dtype), by_weight, None, None, None, None


class _Tiles:
    """One pass over the vocabulary, in memory of one tile: (columns, rows of the weight (W, D), logits (K, W))."""

    def __init__(self, hidden: Tensor, weight: Tensor, scale: float) -> None:
        self._hidden, self._weight, self._scale = hidden, weight, scale
        K, D, V, dtype = *hidden.shape, len(weight), hidden.dtype
        self._width = min(max(TILE // max(K, 1), NARROWEST), WIDEST, V)
        self._rows = None if weight.dtype == dtype else hidden.new_empty(self._width, D)  # (W, D)
        self._product = hidden.new_empty(K * self._width)  # (K * W,)
        self._logits = self._product if dtype == torch.float32 else self._product.float()  # (K * W,)

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Logits are float32 and may be overwritten."""
        for start in range(0, len(self._weight), self._width):
            rows = self._weight[start : start + self._width]  # (W, D)
            shape = len(self._hidden), len(rows)
            if self._rows is not None:
                rows = self._rows[: len(rows)].copy_(rows)  # (W, D)
            product = torch.mm(self._hidden, rows.T, out=_first(self._product, shape))  # (K, W)
            logits = product if product.dtype == torch.float32 else _first(self._logits, shape).copy_(product)  # (K, W)
            yield slice(start, start + len(rows)), rows, logits if self._scale == 1 else logits.mul_(self._scale)

    def rounded(self, tile: Tensor) -> Tensor:
        """A tile (K, W) in the dtype of products."""
        return tile if tile.dtype == self._product.dtype else _first(self._product, tile.shape).copy_(tile)


def _first(memory: Tensor, shape: tuple[int, ...]) -> Tensor:
    return memory[: shape[0] * shape[1]].view(shape)


def _place(targets: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Where each target (K,) stands in a tile, and whether it does: (K, 1) each."""
    place = (targets - columns.start)[:, None]  # (K, 1)
    last = columns.stop - columns.start - 1
    return place.clamp(0, last), (place >= 0) & (place <= last)


def _by_logits(logps: Tensor, entropy: Tensor | None, by_logps: Tensor, by_entropy: Tensor | None) -> Tensor:
    """Gradient by the logits (K, W), but for that of the target's log-probability itself; overwrites `logps` (K, W)."""
    if by_entropy is None:
        return logps.exp_().mul_(-by_logps)
    probs = logps.exp()  # (K, W)
    return logps.mul_(-by_entropy).sub_(by_logps + by_entropy * entropy).mul_(probs)


def _put_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(a @ b)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Adds a @ b to a float32 total; in bf16 what rounding cut off the product follows by a second one."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
        return
    # TRL: sums of products rounded to bf16 let the entropy drift over some dozens of steps.
    product = a @ b
    total.add_(product)
    total.add_(product.addmm_(a, b, beta=-1))
