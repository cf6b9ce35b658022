"""Refuses what would train otherwise than was asked: frozen weights, a replaced adapter, a batch split over GPUs."""

from typing import Any

import torch

from dqo.errors import RecipeError


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
