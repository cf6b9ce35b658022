"""Embeddings of responses from a forward that happens anyway: that of the reference, for the KL term.

With `encoder: reference` a response is the mean of the reference's last hidden states over its answer's tokens. Unlike
`policy:NAME`, which reads the text alone, they are states within the conversation, and they cost no forward.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dqo.errors import EncoderError, RecipeError
from dqo.integrations.trl.hidden_tap import HiddenTap
from dqo.rewards.completion import completion_text

REFERENCE = "reference"


class ReferenceStates:
    """An embedder that is given, before each call, the states and tokens of the responses it will be asked about.

    Args:
        tokenizer: the policy's.
        width: D, hidden width of the reference.
    """

    name = REFERENCE

    def __init__(self, tokenizer: Any, width: int) -> None:
        self.dimension = width
        self._tokenizer = tokenizer
        self._states: Tensor | None = None
        self._ids: list[list[int]] = []
        self._texts: list[str] = []

    def give_states(self, states: Tensor) -> None:
        """Take the reference's states.

        Args:
            states: (N, C, D), those from which each of the C tokens of a response was predicted.
        """
        self._states = states[:, 1:].detach()  # (N, C - 1, D): the states at the tokens themselves, but the last

    def give_responses(self, ids: list[list[int]], texts: list[str]) -> None:
        """Take the same rows' tokens and texts.

        Args:
            ids: N lists of token ids, padding left out.
            texts: N texts.
        """
        self._ids, self._texts = ids, texts

    def __call__(self, texts: list[str]) -> Tensor:
        """Embeddings of the answers; a response's last token, its end as a rule, is left out.

        Args:
            texts: N answers, each a part of the response given in its place.

        Returns:
            (N, D) float32 rows of norm 1 on the CPU, zero for a blank answer.

        Raises:
            EncoderError: no forward to read, or an answer that does not stand in its response word for word.
        """
        if self._states is None or len(self._states) != len(texts) or len(self._ids) != len(texts):
            raise EncoderError(
                f"encoder 'reference': expected the reference's states of {len(texts)} responses, got none; use "
                "encoder='policy' where another trainer scores responses without the reference's forward."
            )
        weights = torch.zeros(self._states.shape[:2])  # (N, C - 1)
        for row, answer in enumerate(texts):
            first, behind = self._span(row, answer.strip())
            weights[row, first : min(behind, len(self._ids[row]) - 1)] = 1
        weights = weights.to(self._states.device)  # (N, C - 1)
        sums = (self._states.float() * weights.unsqueeze(-1)).sum(1)  # (N, D)
        self._states = None
        return nn.functional.normalize(sums).cpu()  # (N, D) the mean's direction is the sum's

    def _span(self, row: int, answer: str) -> tuple[int, int]:
        """First token of the answer in its response, and the one behind it."""
        ids, text = self._ids[row], self._texts[row]
        if not answer:
            return 0, 0
        if answer == text.strip():
            return 0, len(ids)
        start = text.find(answer)
        if start < 0:
            raise EncoderError(
                f"encoder 'reference' reads the tokens of a response, but the answer {answer[:60]!r} does not stand in "
                f"the response {text[:60]!r} word for word; use encoder='policy' for this task."
            )
        first = self._tokens(ids, start + 1) - 1
        return max(0, first), self._tokens(ids, start + len(answer))

    def _tokens(self, ids: list[int], characters: int) -> int:
        """Fewest tokens whose text is at least so long."""
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high) // 2
            long = len(self._tokenizer.decode(ids[:middle], skip_special_tokens=True)) >= characters
            low, high = (low, middle) if long else (middle + 1, high)
        return low


class ReferenceStatesMixin:
    """Lets an online trainer of TRL embed responses by the forward of its reference, which runs right before scoring.

    Args:
        model: policy, as the host takes it.
        reward_funcs: task rewards, as the host takes them.
        args: DQOConfig, DQORLOOConfig or DQOPPOConfig.
        **kwargs: anything else the host takes.

    Raises:
        RecipeError: `encoder='reference'` without a reference, or for a policy with images or tools.
    """

    def __init__(self, model: Any, reward_funcs: Any = None, args: Any = None, **kwargs: Any) -> None:
        self._reference: ReferenceStates | None = None
        self._awaits_reference = False
        super().__init__(model, reward_funcs, args, **kwargs)
        if args.encoder != REFERENCE:
            return
        if self._is_vlm or getattr(self, "tools", None):
            raise RecipeError(
                "encoder='reference' needs a text policy that answers in one turn, got one with images or tools; use "
                "encoder='policy'."
            )
        source = self.model if self.ref_model is None else self.ref_model  # with LoRA, the policy without its additions
        source = self.accelerator.unwrap_model(source)
        self._reference_tap = HiddenTap(source)
        self._reference = ReferenceStates(self._tokenizer, source.config.get_text_config().hidden_size)

    def _generate_and_score_completions(self, inputs: list) -> dict:
        self._awaits_reference = self._reference is not None
        return super()._generate_and_score_completions(inputs)

    def _get_per_token_logps_and_entropies(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The host's; where the rows are about to be scored, the reference's states are kept.

        With LoRA old and reference log-probabilities pass through one module, the reference's last, so that the last
        pass before scoring is the one that counts.
        """
        if not self._awaits_reference or (self.ref_model is not None and model is not self.ref_model):
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        columns = kwargs["logits_to_keep"] if "logits_to_keep" in kwargs else args[2]
        policy_tap, self.hidden_tap = self.hidden_tap, self._reference_tap
        try:
            with self._reference_tap.listening():
                found = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
                self._reference.give_states(self._reference_tap.take(columns))
        finally:
            self.hidden_tap = policy_tap
        return found

    def _calculate_rewards(self, inputs: list, prompts: list, completions: list, completion_ids_list: list) -> Tensor:
        self._awaits_reference = False
        if self._reference is not None:
            self._reference.give_responses(completion_ids_list, [completion_text(text) for text in completions])
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
