"""Forward and backward of one group's log-probabilities on a CUDA device, in bf16: TRL's rows against a shared prompt.

Run `python benchmarks/gpu.py` (8 minutes at most), or `--sizes toy`, which runs on a CPU in seconds. Models have the
shapes of Qwen2.5 and random weights. Every response has its full length: there is no padding, and TRL attends by its
fastest kernels. Arms:

    TRL, sdpa              G rows of prompt and completion, no mask: SDPA's causal kernel
    TRL, flash_attention_2 the same, where it is installed
    packed, dense          a prompt and m completions a row under a dense mask, m as on a CPU
    packed, blocks         the group in one row, FlexAttention

The last needs CUDA. "speed-up" and "memory" are over TRL's fastest arm at the same shape and checkpointing, "loss" and
"gradient" the differences from its first: rounding of bf16, in float32 below 1e-4. The first call, which compiles, is
told apart. Last, with checkpointing, completions behind a short prompt grow until packing pays no more.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM
from trl.trainer.utils import add_fused_lm_head

from comparison import write
from dqo.integrations.trl.fast import attention, packing
from measurements import Shape, environment

SIZES = {
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    "toy": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 256, "tie_word_embeddings": False},
}  # fmt: skip
SHAPES = [Shape(512, 512, 8), Shape(1024, 128, 8), Shape(150, 400, 8)]
GROWING = [200, 400, 800, 1600, 3200]  # completion tokens behind a prompt of 150, until break-even
START_UNTIL = 0.8  # share of the limit after which no measurement begins


@dataclass(frozen=True)
class Arm:
    """How log-probabilities are computed: by TRL's own call under an attention, or in packed rows."""

    name: str
    attention: str = "sdpa"
    packed: bool = False
    blocks: bool = False


TRL, DENSE, BLOCKS = (
    Arm("TRL, sdpa"),
    Arm("packed, dense", packed=True),
    Arm("packed, blocks", packed=True, blocks=True),
)


def arms_on(device: str) -> list[Arm]:
    """Arms that run there, TRL's first."""
    if device == "cpu":
        return [TRL, DENSE]
    flash = [Arm("TRL, flash_attention_2", "flash_attention_2")] if find_spec("flash_attn") else []
    return [TRL, *flash, DENSE, BLOCKS]


def build(size: str, device: str) -> PreTrainedModel:
    """A model with random weights, bf16 on CUDA, prepared by TRL's head."""
    torch.manual_seed(0)
    config = Qwen2Config(**SIZES[size], max_position_embeddings=32768, attn_implementation="sdpa")
    with torch.device(device):
        model = Qwen2ForCausalLM(config).to(torch.float32 if device == "cpu" else torch.bfloat16)
    add_fused_lm_head(model)
    return model.train()


def updates(model: PreTrainedModel, arm: Arm, shape: Shape) -> Callable[[], Tensor]:
    """A function that goes forward and backward over one group, and returns its loss."""
    generator, G, P, C = torch.Generator().manual_seed(0), shape.G, shape.prompt, shape.completion
    draw = {"generator": generator, "high": model.config.vocab_size}
    ids = torch.cat([torch.randint(size=(1, P), **draw).expand(G, P), torch.randint(size=(G, C), **draw)], dim=1)
    ids = ids.to(model.device)  # (G, P+C)
    mask = torch.ones_like(ids)  # (G, P+C)
    labels = ids.index_fill(1, torch.arange(P, device=ids.device), packing.IGNORED)  # (G, P+C)
    advantages = torch.linspace(-1, 1, G, device=ids.device)[:, None]  # (G, 1)

    def update() -> Tensor:
        if arm.packed:
            logps, _ = packing.shared_prefix_logps(model, ids, mask, C)  # (G, C)
        else:
            logps = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs[:, -C:]
        # A policy gradient, and a term that is not nearly zero for random weights.
        loss = -(advantages * logps + 0.1 * logps).mean()
        loss.backward()
        return loss.detach()

    return update


def measure(model: PreTrainedModel, arm: Arm, shape: Shape, checkpointing: bool, repeats: int) -> dict[str, Any]:
    """Runs one arm: two passes to warm up, then `repeats` that are timed.

    The result has "arm", "shape", "checkpointing", and "update_s" (median, s), "first_s", "peak_mb" (tensors on the
    device, 0 on a CPU), "loss" and "gradient" (its norm), or "error".
    """
    row = {"arm": arm.name, "shape": asdict(shape), "checkpointing": checkpointing}
    model.set_attn_implementation(arm.attention)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()
    update, on_device = updates(model, arm, shape), model.device.type == "cuda"
    times: list[float] = []

    def by_blocks(device: torch.device) -> bool:
        return arm.blocks

    try:
        with mock.patch.object(attention, "by_blocks", by_blocks), mock.patch.object(packing, "by_blocks", by_blocks):
            for turn in range(2 + repeats):
                model.zero_grad(set_to_none=True)
                if on_device:
                    torch.cuda.synchronize()
                    torch.cuda.reset_peak_memory_stats()
                start = time.perf_counter()
                loss = update()
                if on_device:
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
                if turn == 0:
                    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
        peak = torch.cuda.max_memory_allocated() / 1e6 if on_device else 0.0
        row |= {"update_s": statistics.median(times[2:]), "first_s": times[0], "peak_mb": peak}
        row |= {"loss": loss.item(), "gradient": norm.item()}
    except torch.OutOfMemoryError:
        row["error"] = "out of memory"
    model.zero_grad(set_to_none=True)
    if on_device:
        torch.cuda.empty_cache()
    return row


HEADER = (
    f"{'size':<5} {'shape':<17} {'check-':<6} {'arm':<22} {'update s':>9} {'speed-up':>8} {'peak MB':>8} {'memory':>6} "
    f"{'first s':>8} {'loss':>8} {'gradient':>8}"
)


def line_of(row: dict[str, Any], fellows: list[dict[str, Any]]) -> str:
    """One line of the table; `fellows` are the rows of the same size, shape and checkpointing so far, TRL's first."""
    start = (
        f"{row['size']:<5} {Shape(**row['shape'])!s:<17} {'point' if row['checkpointing'] else '-':<6} {row['arm']:<22}"
    )
    if "error" in row:
        return f"{start} {row['error']:>9}"
    trls = [fellow for fellow in fellows if fellow["arm"].startswith("TRL") and "error" not in fellow] or [row]
    best = min(trls, key=lambda fellow: fellow["update_s"])
    memory = row["peak_mb"] / (best["peak_mb"] or 1)
    loss, gradient = (abs(row[name] / trls[0][name] - 1) for name in ("loss", "gradient"))
    return (
        f"{start} {row['update_s']:>9.4f} {best['update_s'] / row['update_s']:>7.2f}x {row['peak_mb']:>8.0f} "
        f"{memory:>6.2f} {row['first_s']:>8.2f} {loss:>8.1e} {gradient:>8.1e}"
    )


class Table:
    """What was measured, printed line by line and written after every line, until time runs out."""

    def __init__(self, options: argparse.Namespace, device: str) -> None:
        self._options, self._device, self._start = options, device, time.perf_counter()
        self.rows: list[dict[str, Any]] = []
        self._around = SimpleNamespace(environment=environment())
        if device == "cuda":
            self._around.environment["card"] = torch.cuda.get_device_name()
        options.out.parent.mkdir(parents=True, exist_ok=True)
        self._write()
        print(f"{self._around.environment.get('card', 'a CPU, by way of trial')}\n{HEADER}", flush=True)

    def _write(self) -> None:
        write(self._options, self._around, rows=self.rows)

    @property
    def late(self) -> bool:
        """Whether a measurement that begins now could overrun the limit."""
        return time.perf_counter() - self._start >= START_UNTIL * self._options.limit

    def compare(self, size: str) -> None:
        """Every arm at every shape, and for the first size the break-even length."""
        try:
            model = build(size, self._device)
        except torch.OutOfMemoryError:
            print(f"{size:<5} out of memory", flush=True)
            return
        for shape in self._options.shapes:
            for checkpointing in (False, True):
                for arm in arms_on(self._device):
                    self._take(model, size, arm, shape, checkpointing)
        if size == self._options.sizes[0] and BLOCKS in arms_on(self._device):
            self._grow(model, size)

    def _grow(self, model: PreTrainedModel, size: str) -> None:
        for C in GROWING:
            pair = [self._take(model, size, arm, Shape(150, C, 8), True) for arm in (TRL, BLOCKS)]
            if any(row is None or "error" in row for row in pair):
                return
            if pair[0]["update_s"] < pair[1]["update_s"]:
                return print(f"{size}: behind 150 tokens packing pays no more at completions of {C}", flush=True)

    def _take(self, model: PreTrainedModel, size: str, arm: Arm, shape: Shape, checkpointing: bool) -> dict | None:
        if self.late:
            return None
        row = {"size": size, **measure(model, arm, shape, checkpointing, self._options.repeats)}
        self.rows.append(row)
        same = [x for x in self.rows if all(x[name] == row[name] for name in ("size", "shape", "checkpointing"))]
        print(line_of(row, same), flush=True)
        self._write()
        return row


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["1.5b", "7b"], help="default: %(default)s")
    parser.add_argument("--shapes", type=Shape.parse, nargs="+", default=SHAPES, metavar="P,T,G",
                        help="prompt tokens, completion tokens, completions a prompt")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, help="passes timed (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=480, help="seconds; at 80 %% nothing more begins")
    parser.add_argument("--out", type=Path, default=Path("outputs") / "gpu.json")
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and options.sizes != ["toy"]:
        sys.exit("expected a CUDA device, but torch sees none; run this where there is one, or --sizes toy here.")
    table = Table(options, device)
    for size in options.sizes:
        if not table.late:
            table.compare(size)
    print("stopped for the time limit" if table.late else "done", f"written to {options.out}", sep="; ")


if __name__ == "__main__":
    main()
