"""What dqo needs of TRL beyond its documented interface, asked by name of the TRL that is installed."""

from inspect import signature
from typing import Any

import trl
from accelerate.logging import get_logger
from packaging.version import Version
from trl.models import unwrap_model_for_generation
from trl.trainer import utils

from dqo.errors import RecipeError

logger = get_logger(__name__)
TRIED = "trl==1.16.*"  # the newest minor version that `make test-trl` ran with
# Methods of TRL and transformers that the trainers override: nothing would call ours in the place of a missing one.
OVERRIDDEN = (
    "_calculate_rewards", "_compute_loss", "_generate", "_generate_and_score_completions", "_generate_single_turn",
    "_get_grad_norm", "_get_per_token_logps_and_entropies", "_get_train_sampler", "_load_optimizer_and_scheduler",
    "_prepare_inputs", "_run_epoch", "_save_checkpoint", "_save_optimizer_and_scheduler", "_save_rng_state",
    "training_step",
)  # fmt: skip

# What the log-probability head of TRL 1.16 takes.
_HEAD_TAKES = (
    "ctx", "hidden", "weight", "bias", "targets", "temperature", "chunk_size", "final_logit_softcapping", "logit_scale",
    "outputs",
)  # fmt: skip


def check(trls: Any) -> None:
    """Warns of a TRL that is newer than what was tried; a RecipeError where the class `trls` lacks a method."""
    if lacks := [name for name in OVERRIDDEN if not hasattr(trls, name)]:
        raise RecipeError(
            f"the credit enters through methods of TRL, of which TRL {trl.__version__} lacks {', '.join(lacks)}; "
            f"pip install '{TRIED}'."
        )
    if reason := untried():
        logger.warning("dqo: %s", reason)


def check_called(called: bool) -> None:
    """Raises a RecipeError where TRL made a batch without our rewards: it would be trained on without the credit."""
    if not called:
        raise RecipeError(
            f"the credit enters through `_calculate_rewards`, which TRL {trl.__version__} did not call; "
            f"pip install '{TRIED}'."
        )


def untried() -> str | None:
    """Says that the installed TRL is of a newer minor version than was tried; None where it is not."""
    newest = TRIED.removeprefix("trl==").removesuffix(".*")
    if Version(trl.__version__).release[:2] <= Version(newest).release:
        return None
    return (
        f"TRL {trl.__version__} is newer than {newest}, the newest that was tried; if a training fails, install that."
    )


def why_unshared() -> str | None:
    """Says what the installed TRL lacks for prompts that a group shares; None where it has all."""
    generation = signature(unwrap_model_for_generation).parameters
    has = {
        "`add_fused_lm_head`": hasattr(utils, "add_fused_lm_head"),
        "`gradient_checkpointing_kwargs` of generation": "gradient_checkpointing_kwargs" in generation,
    }
    lacks = [name for name, there in has.items() if not there]
    return f"TRL {trl.__version__} lacks {' and '.join(lacks)}, which TRL 1.16 has." if lacks else None


def fused_head() -> Any:
    """The log-probability head that TRL's forward looks up at every call; None where it is not that of TRL 1.16."""
    head = getattr(utils, "_ChunkedLogProbFunction", None)
    return head if head and tuple(signature(head.forward).parameters) == _HEAD_TAKES else None


def ending_tokens(trainer: Any) -> list[int]:
    """Token ids that end a response: before TRL 1.14.2 the tokenizer's own alone."""
    return getattr(trainer, "eos_token_ids", [trainer._tokenizer.eos_token_id])
