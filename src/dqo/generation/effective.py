"""Finds the settings that `generate` would apply: those that it is given, then the model's own, then the defaults."""

from transformers import GenerationConfig, PreTrainedModel

from dqo.generation.shared import Sampling

_APPLIED = {"temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens", "eos_token_id"}
# They change neither which tokens are drawn, nor how likely, nor where a response ends.
_INERT = {
    "bos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id", "max_length", "use_cache",
    "length_penalty", "early_stopping", "renormalize_logits", "output_attentions", "output_hidden_states",
    "output_scores", "output_logits", "return_dict_in_generate", "transformers_version", "_from_model_config",
    "disable_compile", "compile_config", "prefill_chunk_size", "low_memory", "is_assistant", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind",
}  # fmt: skip


def effective_sampling(model: PreTrainedModel, given: GenerationConfig) -> tuple[Sampling, list[str]]:
    """How `model.generate(generation_config=given)` draws.

    Args:
        model: causal LM, possibly wrapped by PEFT, whose own `generation_config` fills what is not given.
        given: settings of the call.

    Returns:
        What `generate_shared` can apply, and the names of the settings that it cannot.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config, _ = base._prepare_generation_config(given)  # transformers' own order of who decides
    neutral = config._get_default_generation_params() | {"do_sample": True}
    beyond = [
        name
        for name, value in config.to_dict().items()
        if name not in _APPLIED | _INERT and value not in (None, neutral.get(name), [], {})
    ]
    return Sampling(
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
        repetition_penalty=config.repetition_penalty,
    ), sorted(beyond)
