"""The reward column that diversity enters by, and what may stand beside it."""

from itertools import count
from typing import Any

import torch
from accelerate.logging import get_logger
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from dqo.errors import RecipeError
from dqo.models.weights import check_files
from dqo.rewards import CheckedReward, prompt_key

COLUMN = "diversity"


def reserved_column(prompts: list, **_: Any) -> list[float]:
    """Keeps a column of the host's reward table free for `_calculate_rewards` to fill."""
    return [0.0] * len(prompts)


reserved_column.__name__ = COLUMN


def checked(func: Any) -> Any:
    """Plain callables get their output checked, once; reward models and names of them are left to TRL."""
    return func if isinstance(func, (str, torch.nn.Module, CheckedReward)) else CheckedReward(func)


def distinct(names: list[str]) -> list[str]:
    """The names of reward columns, later ones of the same name numbered: two lambdas are <lambda> and <lambda>_2."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{n}" for n in count(2))
        found.append(name if name not in found else next(new for new in numbered if new not in {*names, *found}))
    return found


def check_task_rewards(count: int) -> None:
    """A run needs task rewards; those that environments bring count too."""
    if count < 1:
        raise RecipeError(
            "DQO needs at least one task reward, got none; pass `reward_funcs`, diversity alone has no goal."
        )


def check_rewards(funcs: list, weights: list[float] | None) -> None:
    """Task rewards must be callable, none of the column's name, and each needs a weight."""
    if weights is not None and len(weights) != len(funcs):
        raise RecipeError(f"`reward_weights` needs one number for each of {len(funcs)} rewards, got {len(weights)}.")
    for func in funcs:
        if not callable(func) and not isinstance(func, str):
            raise RecipeError(
                f"`reward_funcs` takes a function, a reward model or its name, or a list of them, got {func!r}; "
                "correct that entry."
            )
        if getattr(func, "__name__", None) == COLUMN:
            raise RecipeError(
                "`reward_funcs` holds a function named 'diversity', the name of the trainer's own column; rename it, "
                "or, if it is a DiversityReward, remove it: DQOTrainer adds the credit itself."
            )


# Checks the rows that a batch was drawn from: whole groups, and prompts that skip the model's chat template.

logger = get_logger(__name__)


def row_keys(rows: list[dict[str, Any]], device: torch.device) -> Tensor:
    """Digest of each row of the data set, so that processes can compare them: (N_local,) int64.

    The prompt tells groups apart. Where environments bring the prompt, a row may have none, and its other columns do.
    """
    keys = [int(prompt_key(row.get("prompt", row)), 16) >> 1 for row in rows]
    return torch.tensor(keys, dtype=torch.int64, device=device)  # (N_local,)


class TemplateWarning:
    """Warns once of prompts that reach a chat model as plain text, without the template that it was tuned with.

    Args:
        tokenizer: the policy's tokenizer or processor.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer if getattr(tokenizer, "chat_template", None) else None

    def look(self, rows: list[dict[str, Any]]) -> None:
        """Looks at the rows of a batch, until one was warned of."""
        plain = [row["prompt"] for row in rows if isinstance(row.get("prompt"), str)]
        if self._tokenizer is None or all(map(self._is_rendered, plain)):
            return
        self._tokenizer = None
        logger.warning(
            "dqo: the prompts are strings, so the model reads them without its chat template; pass them as messages, "
            '[{"role": "user", "content": ...}], unless the model shall continue plain text.'
        )

    def _is_rendered(self, prompt: str) -> bool:
        """Whether a prompt holds tokens that only a template writes, so that somebody has applied it already."""
        tokenizer = getattr(self._tokenizer, "tokenizer", self._tokenizer)  # of a processor
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return bool(set(ids) & set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})


# Refuses what would train otherwise than was asked: frozen weights, a replaced adapter, a batch split over GPUs.


def check_one_device(args: Any) -> None:
    """Refuses several GPUs in one process, over which torch's DataParallel would split the groups of each batch.

    Args:
        args: Settings of a trainer.

    Raises:
        RecipeError: Naming the number of GPUs and both ways out.
    """
    if args.n_gpu > 1:
        raise RecipeError(
            f"expected one GPU per process, got {args.n_gpu} visible ones and no launcher; start with `accelerate "
            f"launch --multi_gpu --num_processes {args.n_gpu} -m dqo train ...`, or set CUDA_VISIBLE_DEVICES=0."
        )


def check_trainable(model: Any, peft_config: Any) -> None:
    """Refuse an adapter that new additions would replace in silence, and a policy without a weight to train.

    Args:
        model: policy, as the host takes it; a name is looked at by the host alone.
        peft_config: settings of the additions to train, or None.

    Raises:
        RecipeError: naming what to change.
    """
    if not isinstance(model, torch.nn.Module):
        return
    remedy = "merge it into its base (merge_and_unload of peft), save that and train from there"
    if peft_config is not None and getattr(model, "_hf_peft_config_loaded", False):
        raise RecipeError(
            f"expected a policy without an adapter beside `peft_config`, whose additions would take its place, got one "
            f"that was loaded with it; {remedy}."
        )
    if peft_config is None and not any(weight.requires_grad for weight in model.parameters()):
        raise RecipeError(
            "expected a policy with weights to train, got one whose weights are all frozen; pass `peft_config`, or "
            f"set requires_grad; if it was loaded from an adapter, {remedy}."
        )


def check_named(model: Any, funcs: list, args: Any, peft_config: Any) -> None:
    """Refuse models that TRL loads by name, policy, reference and rewards, where weights would be drawn at random.

    Args:
        model: policy, as TRL takes it.
        funcs: rewards, as TRL takes them.
        args: settings of the trainer.
        peft_config: settings of the additions to train, or None.

    Raises:
        ModelError: naming the model and the first weights that lack.
    """
    remedy = "save it again with save_pretrained from the class it was trained as"
    options = {key: value for key, value in (args.model_init_kwargs or {}).items() if key in ("revision", "token")}
    if isinstance(model, str):
        check_files(model, remedy, **options)
    elif args.beta and peft_config is None and model.config.name_or_path:  # the reference
        check_files(model.config.name_or_path, remedy)
    for func in funcs:
        if isinstance(func, str):
            check_files(func, remedy, loader=AutoModelForSequenceClassification, num_labels=1, **options)
