"""The linear layers of one decoding step with plain and with packed weights, in the shapes of SmolLM2-135M.

    python benchmarks/packed.py

Seconds, medians, on as many threads as torch takes; nothing else should run. Attention and sampling are not in it.
"""

import statistics
import time

import torch
from torch import nn

from dqo.models.numerics import packed_weights

LAYERS, HIDDEN, INNER, KEYS, VOCABULARY = 30, 576, 1536, 192, 49152
REPEATS, ROWS = 20, (4, 8, 16, 24, 40)


def linears() -> nn.ModuleList:
    """Every linear layer of the model with random weights."""
    shapes = [(HIDDEN, HIDDEN), (HIDDEN, KEYS), (HIDDEN, KEYS), (HIDDEN, HIDDEN)]  # queries, keys, values, output
    shapes += [(HIDDEN, INNER), (HIDDEN, INNER), (INNER, HIDDEN)]  # gate, up, down
    return nn.ModuleList(nn.Linear(*shape, bias=False) for shape in [*shapes * LAYERS, (HIDDEN, VOCABULARY)])


def median_seconds(layers: nn.ModuleList, inputs: dict[int, torch.Tensor]) -> float:
    """Of one pass through all layers."""
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for layer in layers:
            layer(inputs[layer.in_features])
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[3:])


@torch.no_grad()
def main() -> None:
    """Print the table."""
    layers = linears()
    print(f"{torch.get_num_threads()} threads\nrows   plain  packed  packing  speed-up")
    for rows in ROWS:
        inputs = {width: torch.randn(rows, width) for width in (HIDDEN, INNER)}
        plain, start = median_seconds(layers, inputs), time.perf_counter()
        with packed_weights(layers, rows, REPEATS):
            packing = time.perf_counter() - start
            packed = median_seconds(layers, inputs)
        print(f"{rows:4}  {plain:6.3f}  {packed:6.3f}  {packing:7.3f}  {plain / packed:7.2f}x")


if __name__ == "__main__":
    main()
