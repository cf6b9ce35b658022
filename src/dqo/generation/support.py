"""Which models may read a prompt once for many rows: those whose every token sees its whole past by attention alone.

Windows and recurrent state are read off the configuration, because they show on long sequences only; the rest is tried
out on a few made-up tokens.
"""

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from dqo.generation.shared import why_not_in_groups

_BY_LENGTH = ("dynamic", "longrope")  # kinds of rotary embedding whose frequencies follow the longest position
_WINDOWS = ("sliding_window", "attention_chunk_size", "attention_window_size", "window_size")


def why_not_shared(model: PreTrainedModel) -> str | None:
    """Why `generate_shared` would not sample from this model's own distribution, or None where it does.

    Args:
        model: causal LM with its weights in memory; its mode is left as it was.

    Returns:
        None, or a clause to show the user.
    """
    if model.config is not model.config.get_text_config():
        return f"{model.config.model_type} takes more than text."
    return why_layers(model) or why_not_in_groups(model)


def why_layers(model: nn.Module) -> str | None:
    """Why the layers of a model are more than full attention, or None where they are not.

    Args:
        model: causal LM, possibly wrapped by PEFT.

    Returns:
        None, or a clause to show the user.
    """
    config = model.config
    if getattr(model.get_base_model() if hasattr(model, "get_base_model") else model, "_is_stateful", False):
        return "its recurrent layers would carry state from one response into the next."
    if rope := set(_rope_types(config)).intersection(_BY_LENGTH):
        return f"its rotary frequencies depend on the length of the row (rope_type {', '.join(rope)})."
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        others = sorted(set(kinds) - {"full_attention"})
        return f"it has layers of type {', '.join(others)} beside full attention." if others else None
    if getattr(config, "use_sliding_window", True):
        for name in _WINDOWS:
            if (width := getattr(config, name, None)) is not None:
                return f"its attention reaches back {width} tokens only ({name})."
    return None


def _rope_types(config: PretrainedConfig) -> list[str]:
    """Of all layers, or one a kind of layer."""
    settings = getattr(config, "rope_parameters", None) or {}
    return [part.get("rope_type", "default") for part in (settings, *settings.values()) if isinstance(part, dict)]
