"""How much accelerator memory a run will take, from shapes alone: an estimate to plan with, no measurement."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dqo.errors import ModelError
from dqo.models.weights import first_words

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GIB = 2**30
# Numbers a transformer layer keeps for the backward pass, per token and unit of width, attention matrices not stored
# (34 bytes in 16-bit arithmetic: Korthikanti et al., arXiv 2205.05198, eq. 1 and section 5).
_KEPT = 17
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class PolicyShape:
    """What the estimate needs to know of a policy.

    Attributes:
        kind: Class of the model.
        parameters: Number of weights.
        trained: Those that are trained: all of them, or the LoRA additions.
        layers: Number of layers.
        width: Hidden width.
        kv_width: Width of keys (and of values) of one token, over all layers; 0 for a model without attention.
        vocabulary: Number of tokens.
        positions: Longest sequence; None where the model does not say.
    """

    kind: str
    parameters: int
    trained: int
    layers: int
    width: int
    kv_width: int
    vocabulary: int
    positions: int | None


def policy_shape(config: "PretrainedConfig", lora_rank: int | None, targets: Sequence[str] | str) -> PolicyShape:
    """Shapes of a model that is built without memory for its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config()  # of a model that takes images too the part that writes
    except ValueError as error:
        raise ModelError(f"expected a causal language model, but got a {config.model_type} ({first_words(error)}); "
                         "choose another.") from error  # fmt: skip
    if not hasattr(text, "num_hidden_layers"):
        raise ModelError(f"expected `num_hidden_layers` in the config of a {config.model_type} to estimate its memory, "
                         "got none; a run needs no estimate and can start without this dry run.")  # fmt: skip
    parameters = sum(weight.numel() for weight in model.parameters())
    trained = parameters
    if lora_rank is not None:
        head = model.get_output_embeddings()
        trained = 0
        for name, layer in model.named_modules():
            wanted = layer is not head if targets == "all-linear" else name.split(".")[-1] in targets
            if isinstance(layer, torch.nn.Linear) and wanted:
                trained += lora_rank * (layer.in_features + layer.out_features)
    return PolicyShape(
        kind=type(model).__name__,
        parameters=parameters,
        trained=trained,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        kv_width=_kv_width(text),
        vocabulary=text.vocab_size,
        positions=getattr(text, "max_position_embeddings", None),
    )


def _kv_width(config: "PretrainedConfig") -> int:
    """Width of the keys of one token over all layers; models such as Mamba keep a state of fixed size instead."""
    alike = not getattr(config, "is_heterogeneous", False)  # else numbers of heads differ from layer to layer
    layers = [config] * config.num_hidden_layers if alike else config.per_layer_config
    total = 0
    for layer in layers:
        if heads := getattr(layer, "num_attention_heads", None):
            width = getattr(layer, "head_dim", None) or layer.hidden_size // heads
            total += (getattr(layer, "num_key_value_heads", None) or heads) * width
    return total


def memory_parts(shape: PolicyShape, config: Any, dtype: str, longest_prompt: int) -> dict[str, float]:
    """Estimates the memory of one process without sharding, in GiB under what it is for."""
    size = _BYTES[dtype]
    working = 2 if config.bf16 or config.fp16 else size  # bytes of a number in the forward pass
    tuned = size if shape.trained == shape.parameters else 4  # peft keeps additions in float32
    rows, tokens = config.per_device_train_batch_size, longest_prompt + config.max_completion_length
    layer = rows * tokens * shape.width * working * _KEPT
    checkpointed = rows * tokens * shape.width * working * shape.layers + layer
    generated = min(rows * (config.steps_per_generation or 1), config.generation_batch_size)
    parts = {
        "weights": shape.parameters * size,
        "gradients": shape.trained * tuned,
        "Adam's moments": 2 * shape.trained * tuned,
        "critic": 4 * 4 * shape.parameters if hasattr(config, "critic_learning_rate") else 0,
        "reference": shape.parameters * size if config.beta and shape.trained == shape.parameters else 0,
        "activations": checkpointed if config.gradient_checkpointing else layer * shape.layers,
        "logits": 2 * rows * config.max_completion_length * shape.vocabulary * 4,
        "keys and values": 0 if config.use_vllm else 2 * generated * tokens * shape.kv_width * working,
    }
    return {name: value / GIB for name, value in parts.items() if value}
