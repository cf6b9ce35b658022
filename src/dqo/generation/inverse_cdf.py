"""Drawing tokens from probabilities with one random number a row, so that a row's draw depends on that number alone."""

import torch
from torch import Tensor

_BLOCK = 256  # tokens of the vocabulary summed at once


def inverse_cdf(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """One draw a row. Unlike `torch.multinomial`, one random number a row, not V.

    In two stages, a block of tokens and then a token of it, so that the sums in float64, in which a large vocabulary
    loses no token, are over blocks and not over all tokens. The first place where a sum exceeds the drawn number is
    never a token of probability zero.

    Args:
        probabilities: (R, V), of any scale a row.
        uniforms: (R,) float64 in [0, 1).

    Returns:
        (R,) token ids.
    """
    R, V = probabilities.shape
    padded = torch.nn.functional.pad(probabilities, (0, -V % _BLOCK)).view(R, -1, _BLOCK)  # (R, blocks, _BLOCK)
    mass = _running_sum(padded.sum(-1, dtype=torch.float64))  # (R, blocks)
    drawn = uniforms[:, None] * mass[:, -1:]  # (R, 1)
    block = torch.searchsorted(mass, drawn, right=True).clamp(max=mass.shape[1] - 1)  # (R, 1)
    before = torch.nn.functional.pad(mass, (1, 0)).gather(1, block)  # (R, 1) mass of the blocks before
    within = _running_sum(padded[torch.arange(R, device=mass.device), block[:, 0]].double())  # (R, _BLOCK)
    token = torch.searchsorted(within, drawn - before, right=True)  # (R, 1)
    last = (within < within[:, -1:]).sum(-1, keepdim=True)  # (R, 1) rounding may not lead past the last possible token
    return (block * _BLOCK + torch.minimum(token, last)).squeeze(1)


def _running_sum(x: Tensor) -> Tensor:
    """`x.cumsum(-1)`; where only repeatable algorithms are allowed, on the CPU, because CUDA has none for fractions."""
    if x.is_cuda and torch.are_deterministic_algorithms_enabled():
        return x.cpu().cumsum(-1).to(x.device)
    return x.cumsum(-1)
