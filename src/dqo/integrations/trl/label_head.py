"""TRL's fused head on the positions that have a label, and on no other.

Outside CUDA the host's head projects every position to the vocabulary, in forward and again in backward: with a prompt
of 512 tokens and eight completions of 64, half of that work is for prompt positions that nobody scores.
"""

from typing import Any

from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from dqo.integrations.trl.hidden_tap import backbone_of
from dqo.integrations.trl.prefix_layout import IGNORED


def score_labels(model: nn.Module, *, shift_labels: Tensor, **inputs: Any) -> Any:
    """`model(..., fused_lm_head=True)`, the same values and gradients, without the head's work on ignored positions.

    A forward hook on the backbone, in place for this call, hands the head the hidden states of labelled positions only;
    hooks that were there before (`HiddenTap`) see all of them.

    Args:
        model: causal LM prepared by TRL's `add_fused_lm_head`, possibly wrapped (PEFT, DDP, FSDP).
        shift_labels: (U, S) long, the token to score after each position, `IGNORED` where there is none.
        **inputs: of the model, U rows of S positions.

    Returns:
        The model's outputs; `log_probs` and `entropy` (None where the head was made without it) are (U, S), zero on
        ignored positions.
    """
    labelled = shift_labels != IGNORED  # (U, S)
    if not labelled.any():  # the host's head wants a position, and ignores this one
        labelled[0, 0] = True

    def keep_labelled(module: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[labelled][None]  # (1, K, D)
        return output

    hook = backbone_of(extract_model_from_parallel(model)).register_forward_hook(keep_labelled)
    try:
        outputs = model(**inputs, shift_labels=shift_labels[labelled][None], fused_lm_head=True)
    finally:
        hook.remove()
    outputs.log_probs = _spread(outputs.log_probs, labelled)
    outputs.entropy = None if outputs.entropy is None else _spread(outputs.entropy, labelled)
    return outputs


def _spread(values: Tensor, labelled: Tensor) -> Tensor:
    """(1, K) of the labelled positions -> (U, S), zero elsewhere."""
    return values.new_zeros(labelled.shape).masked_scatter(labelled, values)  # (U, S)
