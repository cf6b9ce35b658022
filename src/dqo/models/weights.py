"""Is every weight of a model that was loaded from its files? transformers draws the others at random and only logs it.

A check of the checkpoint's names before loading would have to know each model's renamed, tied and fused weights, so the
loader's own account is read instead.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dqo.errors import DQOError, ModelError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor

Loaded = TypeVar("Loaded")
Loads = list[tuple[Any, str, Any]]  # (model, where its files are, transformers' account), an adapter after its base

_SHOWN = 3  # names of weights in a message
_ONE_AT_A_TIME = threading.RLock()  # a load in another thread would be taken for one of ours


def load_whole(
    load: Callable[[], Loaded],
    what: str,
    remedy: str,
    *,
    error: type[DQOError] = ModelError,
    read: "Callable[[Loaded], Tensor] | None" = None,
) -> Loaded:
    """What a loader returns, refused where a weight that its output reads is in none of its files.

    Args:
        load: Loads through transformers, directly or inside another library.
        what: What was expected and from where, for the error.
        remedy: What to change, for the error.
        error: Class of the error.
        read: The output that counts, of any input; every weight counts where not given.

    Returns:
        What `load` returned.

    Raises:
        DQOError: Of class `error`: loading failed, a weight is missing or has another shape, or an adapter holds
            weights that its base has no place for.
    """
    with recorded_loads() as loads:
        try:
            loaded = load()
        except DQOError:
            raise
        except Exception as problem:  # the hub's, the network's or the files': all of them mean the same to the user
            reason = _other_shapes(loads) or why_failed(problem)
            raise error(f"expected {what}, but loading failed ({reason}); {remedy}.") from problem
    check_loads(loads, remedy, error=error, read=None if read is None else lambda: read(loaded))
    return loaded


@contextmanager
def recorded_loads() -> Iterator[Loads]:
    """Record every load of weights by transformers, whoever asked for it.

    Yields:
        Loads: One entry a load, filled while the block runs.
    """
    from transformers import PreTrainedModel

    loads: Loads = []
    original = PreTrainedModel._load_pretrained_model

    # transformers gives them by place for a model, by name for an adapter
    def record(model: Any, state_dict: Any, checkpoint_files: Any, load_config: Any, **options: Any) -> Any:
        account, rest = original(model, state_dict, checkpoint_files, load_config, **options)
        loads.append((model, str(load_config.pretrained_model_name_or_path), account))
        return account, rest

    with _ONE_AT_A_TIME:
        PreTrainedModel._load_pretrained_model = staticmethod(record)
        try:
            yield loads
        finally:
            PreTrainedModel._load_pretrained_model = staticmethod(original)


def check_loads(
    loads: Loads,
    remedy: str,
    *,
    error: type[DQOError] = ModelError,
    read: "Callable[[], Tensor] | None" = None,
) -> None:
    """Refuse models with weights that are in none of their files.

    Args:
        loads: Of `recorded_loads`, after its block.
        remedy: What to change, for the error.
        error: Class of the error.
        read: The output that counts; every weight counts where not given.

    Raises:
        DQOError: Of class `error`, naming the model and the first weights.
    """
    seen: set[int] = set()
    for model, source, account in loads:
        kind, unknown = type(model).__name__, sorted(account.unexpected_keys)
        missing = _drawn(model, account)
        if missing and (read is None or _reads(model, missing, read)):
            others = f" and hold {_listed(unknown)}, which it does not know" if unknown else ""
            own = "; its code of its own, which config.json asks for, is never run" * bool(
                getattr(model.config, "auto_map", None)
            )
            raise error(
                f"expected every weight of {kind} in {source!r}, but its files lack {_listed(missing)}{others}, and "
                f"random numbers would stand there{own}; {remedy}."
            )
        if unknown and id(model) in seen:  # a second load into one model is that of an adapter
            raise error(
                f"expected an adapter in {source!r} whose weights all have a place in its base, but {_listed(unknown)} "
                f"have none in {kind}, so that they would be left out; load it on the base it was trained on."
            )
        seen.add(id(model))


def _drawn(model: Any, account: Any) -> list[str]:
    """Names of the weights drawn at random; counters and positions are whole numbers, which no model draws."""
    names = account.missing_keys | {name for name, *_ in account.mismatched_keys}
    return sorted(name for name in names if model.get_parameter_or_buffer(name).is_floating_point())


def _reads(model: Any, names: list[str], read: "Callable[[], Tensor]") -> bool:
    """Whether an output depends on any of the weights: it is NaN where they are, for NaN survives all arithmetic."""
    import torch

    weights = [model.get_parameter_or_buffer(name).data for name in names]
    kept = [weight.clone() for weight in weights]
    try:
        for weight in weights:
            weight.fill_(torch.nan)
        with torch.no_grad():
            return not bool(read().isfinite().all())
    finally:
        for weight, old in zip(weights, kept, strict=True):
            weight.copy_(old)


def _other_shapes(loads: Loads) -> str:
    """Which weights have another shape than the model, where that is why a load failed."""
    for model, source, account in loads:
        if account.mismatched_keys:
            name, found, wanted = min(account.mismatched_keys, key=lambda entry: entry[0])
            return (
                f"{source!r} holds {name!r} of shape {tuple(found)} for {tuple(wanted)} of {type(model).__name__}, and "
                f"{len(account.mismatched_keys) - 1} more of another shape"
            )
    return ""


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
    return f"{len(names)} ({shown})"


# What can be known about a hub name before a loader spends a minute on retries, and where copies are kept.


def cache_folder() -> Path:
    """`$DQO_CACHE`, or `~/.cache/dqo`: converted models and data sets read from the hub."""
    return Path(os.environ.get("DQO_CACHE") or "~/.cache/dqo").expanduser()


def is_hub_name(name: str) -> bool:
    """Whether a name has the form of a hub name, `model` or `owner/model`; nothing is asked of the network."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def why_unavailable(name: str) -> str | None:
    """Why the hub cannot serve a model, in a few words; None when it can, or when its files are in the local cache.

    The loaders of transformers retry for most of a minute when there is no network, file by file; one request with a
    time limit says the same at once, and tells an unknown or gated model from a dead network.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    markers = ("config.json", "adapter_config.json", "modules.json")
    if any(isinstance(try_to_load_from_cache(name, marker), str) for marker in markers):
        return None
    try:
        HfApi().model_info(name, timeout=10)
    except Exception as error:  # the hub's, its client's or the socket's: all of them mean the same to the user
        return first_words(error)
    return None


def check_login() -> None:
    """Ask the hub who is logged in, before a run that is to end there starts.

    Raises:
        RecipeError: Nobody, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except Exception as error:  # the hub's, its client's or the socket's: all of them mean the same to the user
        raise RecipeError(
            f"trainer.push_to_hub: expected a hub that can be reached and a login there, got {first_words(error)}; log "
            "in with `hf auth login`, or remove the setting."
        ) from error


def asks_for_code(error: Exception) -> bool:
    """Whether a loader failed because a model brings code of its own, which is never run."""
    return "trust_remote_code" in str(error)


def why_failed(error: Exception) -> str:
    """Why a model did not load, for quoting inside a sentence of ours.

    Args:
        error: The loader's, which advises an option that dqo does not have where a model brings code of its own.

    Returns:
        A few words.
    """
    return "it brings code of its own, which dqo never runs" if asks_for_code(error) else first_words(error)


def first_words(error: Exception, limit: int = 240) -> str:
    """Type and start of an error's text on one line, for quoting inside a sentence of ours."""
    words = " ".join(str(error).split())
    short = words if len(words) <= limit else words[:limit].rsplit(" ", 1)[0] + " …"
    return ": ".join(filter(None, (type(error).__name__, short.rstrip(" .:"))))
