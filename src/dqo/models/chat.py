"""Writes a conversation as the text that a model reads, by the chat template that came with its tokenizer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dqo.errors import ModelError
from dqo.models.weights import first_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def chat_text(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, str]],
    *,
    answer_next: bool = True,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Renders messages, {"role", "content"} each, with special tokens written out; ModelError where that fails."""
    # A template is a program of whoever published the model. transformers runs it in Jinja's sandbox, where it can
    # reach no Python object but the conversation.
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=answer_next, **options or {}
        )
    except Exception as error:
        # Jinja's, or whatever the template's own arithmetic raises.
        remedy = "leave the system_prompt out, or " if messages[0]["role"] == "system" else ""
        raise ModelError(
            f"expected the chat template of {tokenizer.name_or_path!r} to render a conversation, but it failed "
            f"({first_words(error)}); {remedy}mend chat_template in its tokenizer_config.json, or chat_template.jinja."
        ) from error


def conversation(prompt: str, system: str | None = None) -> list[dict[str, str]]:
    """Makes messages of the user's words; without a system prompt the template may have one of its own."""
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": prompt}]


def rendered(
    prompt: str,
    tokenizer: "PreTrainedTokenizerBase",
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Writes the user's words as the policy reads them; without a chat template they stay as they are."""
    if not tokenizer.chat_template:
        return prompt
    return chat_text(tokenizer, conversation(prompt, system), options=options)


def check_system(system: str | None, template: str | None, model: str) -> None:
    """Refuses, with ModelError, a system prompt for a model that would not see it, having no chat template."""
    if system is not None and not template:
        raise ModelError(
            f"system_prompt: expected a model with a chat template, got {model!r}, which reads plain text; remove "
            "it, or write it into the prompts."
        )
