"""How much accelerator memory a run will take, from shapes alone: an estimate to plan with, no measurement."""

from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PretrainedConfig

from dqo.errors import ModelError
from dqo.integrations.trl.config import explaining_refusals
from dqo.models.weights import first_words

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
        text: Config of the part that writes, which of a model that takes images is a part.
    """

    kind: str
    parameters: int
    trained: int
    text: PretrainedConfig

    @property
    def positions(self) -> int | None:
        """Longest sequence; None where the model does not say."""
        return getattr(self.text, "max_position_embeddings", None)


def policy_shape(config: PretrainedConfig, lora: LoraConfig | None) -> PolicyShape:
    """Shapes of a model that is built without memory for its weights."""
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise ModelError(f"expected a causal language model, but got a {config.model_type} ({first_words(error)}); "
                         "choose another.") from error  # fmt: skip
    kind, parameters = type(model).__name__, model.num_parameters()
    if lora is not None:
        with explaining_refusals({"target_modules": lora.target_modules}, "lora: peft"):
            model = get_peft_model(model, lora)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return PolicyShape(kind, parameters, trained, config.get_text_config())


def kv_width(config: PretrainedConfig) -> int:
    """Width of one token's keys, or values, over all layers; 0 for models without attention, such as Mamba."""
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
    text = shape.text
    rows, tokens = config.per_device_train_batch_size, longest_prompt + config.max_completion_length
    layer = rows * tokens * text.hidden_size * working * _KEPT
    checkpointed = rows * tokens * text.hidden_size * working * text.num_hidden_layers + layer
    generated = min(rows * (config.steps_per_generation or 1), config.generation_batch_size)
    parts = {
        "weights": shape.parameters * size,
        "gradients": shape.trained * tuned,
        "Adam's moments": 2 * shape.trained * tuned,
        "critic": 4 * 4 * shape.parameters if hasattr(config, "critic_learning_rate") else 0,
        "reference": shape.parameters * size if config.beta and shape.trained == shape.parameters else 0,
        "activations": checkpointed if config.gradient_checkpointing else layer * text.num_hidden_layers,
        "logits": 2 * rows * config.max_completion_length * text.vocab_size * 4,
        "keys and values": 0 if config.use_vllm else 2 * generated * tokens * kv_width(text) * working,
    }
    return {name: value / GIB for name, value in parts.items() if value}
