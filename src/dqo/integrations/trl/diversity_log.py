"""The numbers of a batch that every log line gets: quality, diversity, what alpha buys, and signs of tricks."""

from collections.abc import Callable

import torch
from accelerate.utils import gather
from torch import Tensor

from dqo.core import tied_groups
from dqo.detectors import low_quality_credit, text_signs
from dqo.diversity import GroupCredit
from dqo.language import language_mixing
from dqo.response import Response


def batch_metrics(task: Tensor, combined: Tensor, group: GroupCredit) -> dict[str, float]:
    """Means over the whole batch, under the names that metrics.jsonl promises.

    Args:
        task: (P, G) task rewards; NaN where unscorable.
        combined: (P, G) rewards that are optimised.
        group: what the signal gave.

    Returns:
        name -> number; NaN where it is undefined.
    """
    values = {
        "quality": task.nanmean(),
        "quality/tied_groups": tied_groups(task).double().mean(),
        "diversity/credit": group.credit.mean(),
        "diversity/credit_std": group.credit.std(dim=1).mean(),
        "diversity/log_volume": group.log_volume.mean(),
        "diversity/quality_volume": group.quality_volume.mean(),
        "diversity/vendi": group.vendi.mean(),
        "diversity/cosine_distance": group.cosine_distance.nanmean(),
        "hack/low_quality_credit": low_quality_credit(combined - task, task),
    }
    return {name: float(value) for name, value in values.items()}


def text_metrics(
    texts: list[Response],
    prompts: list[str],
    lengths: list[int],
    answer_span: Callable[[str], str],
    device: torch.device,
):
    """Signs that single responses show, over all processes; every process must call it.

    Args:
        texts: this process's responses.
        prompts: what each of them answers.
        lengths: their tokens as sampled, traces included.
        answer_span: text -> the part that is embedded.
        device: where tensors are gathered.

    Returns:
        name -> mean over all rows for which it is defined, and the (N,) lengths of all rows.
    """
    rows = [
        (*text_signs(text, answer_span), language_mixing(text, prompt), text.traced, text.unclosed, float(length))
        for text, prompt, length in zip(texts, prompts, lengths, strict=True)
    ]
    table = gather(torch.tensor(rows, dtype=torch.float32, device=device))  # (N, 6)
    names = ("hack/post_answer", "hack/repetition", "hack/language_mixing", "responses/traced", "responses/unclosed")
    return dict(zip(names, table[:, :5].nanmean(dim=0).tolist(), strict=True)), table[:, 5]
