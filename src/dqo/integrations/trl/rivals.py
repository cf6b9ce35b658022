"""Optional: what signals beyond the credit of embeddings need from a trainer.

Log-probabilities of whole responses, a classifier's answers, advantages of their own, and terms of the loss; each is
computed only where the row of the signal asks for it.
"""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
import trl
from accelerate.utils import gather, gather_object
from torch import Tensor
from transformers import ProcessorMixin
from trl import RLOOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import pad

from dqo.diversity.credit import Evidence, read_signal
from dqo.diversity.set_functions import set_credit
from dqo.errors import RecipeError, RewardError
from dqo.rewards.loading import import_function


def attach(trainer: Any) -> None:
    """Gives the signal of a trainer what it needs."""
    trainer.rival = Rival(trainer)


class Rival:
    """Gathers evidence for the signal of a trainer, and carries the signal into advantages or loss."""

    def __init__(self, trainer: Any) -> None:
        self._trainer, spec = trainer, trainer.spec
        named = spec.same_answer
        self._same = import_function(named, "same_answer", "pairs") if named else None
        named = spec.set_function
        self._worth = import_function(named, "set_function", "prompt, answers, rewards") if named else None
        self.sets_advantages = spec.signal.place == "advantage"
        if "logp" in spec.needs and (
            isinstance(trainer.processing_class, ProcessorMixin) or getattr(trainer, "tools", None)
        ):
            raise RecipeError(
                f"diversity={spec.diversity!r} needs a text policy that answers in one turn, got one with images or "
                "tools; choose a signal that reads embeddings."
            )

    def evidence(self, prompts: list[str], texts: list[str], completion_ids: list[list[int]], task: Tensor) -> Evidence:
        """Gather what the signal reads of all processes' rows, of which each gives its texts and tokens."""
        needs, logp, same, marginal = self._trainer.spec.needs, None, None, None
        if "logp" in needs:
            logp = gather(self._sequence_logps(completion_ids)).view_as(task)  # (P, G)
            # What nothing scored is left out of the ranking.
            logp = logp.double().masked_fill(task.isnan(), torch.nan)
        if "same" in needs:
            same = self._same_answers(gather_object(texts), *task.shape)  # (P, G, G)
        if "marginal" in needs:
            marginal = self._marginal(gather_object(prompts), gather_object(texts), task)  # (P, G)
        return Evidence(logp=logp, same=same, marginal=marginal)

    def advantages(self, trls: Tensor, task: Tensor) -> Tensor:
        """Mix the signal's advantages into TRL's by alpha: (P, G) each."""
        spec = self._trainer.spec
        own = read_signal(Evidence(correct=spec.correct(task), scored=~task.isnan()), spec)  # (P, G)
        return (1.0 - spec.alpha) * trls + spec.alpha * own

    def columns(self, task: Tensor, here: slice) -> dict[str, Tensor]:
        """Compute what the loss will read of a batch, (N_local,) each, from the (P, G) task rewards of all rows."""
        spec = self._trainer.spec
        if spec.signal.place != "loss" or "correct" not in spec.needs:
            return {}
        return {"correct": spec.correct(task.flatten())[here]}

    def loss(self, policy_loss: Callable[[Any, dict], Tensor], model: Any, inputs: dict) -> Tensor:
        """Take alpha times the signal's term, which reads the forward of the loss, from the policy's loss."""
        trainer = self._trainer
        if trainer.spec.signal.place != "loss":
            return policy_loss(model, inputs)
        # Kept while the loss is computed, so that no forward has to run twice.
        trainer.notes.forwards = []
        loss = policy_loss(model, inputs)
        forward, trainer.notes.forwards = trainer.notes.forwards[-1], None
        logps, entropies, _ = forward  # (N, T) each
        mask = inputs["completion_mask"]  # (N, T)
        if inputs.get("tool_mask") is not None:
            mask = mask * inputs["tool_mask"]
        old = inputs.get("old_per_token_logps")
        old = logps.detach() if old is None else old  # (N, T)
        correct = inputs["correct"].to(torch.bool) if "correct" in inputs else None  # (N,)
        seen = Evidence(logps=logps, old_logps=old, entropies=entropies, mask=mask, correct=correct)
        term = read_signal(seen, trainer.spec)  # () nats
        if torch.is_grad_enabled() and not term.requires_grad:
            raise RecipeError(
                f"diversity={trainer.spec.diversity!r} needs entropies with a gradient, got TRL {trl.__version__}, "
                "which computes them without; install trl>=1.16, or choose a signal that reads embeddings."
            )
        trainer._log({"diversity/entropy_term": gather(term.detach()).mean().item()})
        # GRPOTrainer scales its loss for accumulated micro-batches itself; RLOOTrainer leaves that to the Trainer.
        steps = 1 if isinstance(trainer, RLOOTrainer) else trainer.current_gradient_accumulation_steps
        return loss - trainer.rollout_alpha * term / steps

    def _sequence_logps(self, completion_ids: list[list[int]]) -> Tensor:
        """Log-probability of each completion under the policy as it is: (N_local,) nats."""
        trainer, args, batch = self._trainer, self._trainer.args, {}
        for part, rows, side in (("prompt", trainer.notes.prompt_ids, "left"), ("completion", completion_ids, "right")):
            ids = [torch.tensor(row, dtype=torch.long, device=trainer.accelerator.device) for row in rows]
            seen = [torch.ones_like(row) for row in ids]
            # (N_local, P) or (N_local, C) each
            batch[f"{part}_ids"] = pad(ids, trainer._tokenizer.pad_token_id, padding_side=side)
            batch[f"{part}_mask"] = pad(seen, 0, padding_side=side)
        size = args.per_device_train_batch_size if trainer.model.training else args.per_device_eval_batch_size
        with torch.no_grad(), disable_gradient_checkpointing(trainer.model, args.gradient_checkpointing_kwargs):
            logps = trainer.completion_logps(trainer.model, batch, size)  # (N_local, C)
        return (logps * batch["completion_mask"]).sum(dim=1)

    def _marginal(self, prompts: list[str], texts: list[str], task: Tensor) -> Tensor:
        """(P, G) credits of the set function; each process asks about its share of the groups."""
        accelerator, (P, G) = self._trainer.accelerator, task.shape
        passes = self._trainer.spec.passes(task.cpu())  # (P, G)
        filled = torch.tensor([bool(text.strip()) for text in texts]).view(P, G)
        mine = torch.zeros(P, dtype=torch.bool)
        mine[accelerator.process_index :: accelerator.num_processes] = True
        groups = [texts[p * G : (p + 1) * G] for p in range(P)]
        takes_part = passes & filled & mine[:, None]  # (P, G)
        name = self._trainer.spec.set_function
        credit = set_credit(self._worth, name, prompts[::G], groups, task.cpu(), takes_part)  # (P, G)
        return accelerator.reduce(credit.to(task.device), reduction="sum")

    def _same_answers(self, texts: list[str], P: int, G: int) -> Tensor:
        """(P, G, G) bool above the diagonal; each process asks about its share of the groups."""
        accelerator = self._trainer.accelerator
        mine = range(accelerator.process_index, P, accelerator.num_processes)
        pairs = {(p, i, j): (texts[p * G + i], texts[p * G + j]) for p in mine for i, j in combinations(range(G), 2)}
        asked = [place for place, (one, other) in pairs.items() if one != other]
        answers = list(self._same([pairs[place] for place in asked])) if asked else []
        if len(answers) != len(asked):
            raise RewardError(
                f"`same_answer` function {self._trainer.spec.same_answer!r}: expected one boolean per pair, got "
                f"{len(answers)} for {len(asked)} pairs; return a list as long as the one it is given."
            )
        found = dict.fromkeys(pairs, True) | dict(zip(asked, answers, strict=True))
        same = torch.zeros(P, G, G, device=accelerator.device)
        for place, answer in found.items():
            same[place] = float(bool(answer))
        return accelerator.reduce(same, reduction="sum") > 0
