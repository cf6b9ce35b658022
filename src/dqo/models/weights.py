"""Loads models whose every weight stands in their files; transformers draws the others at random and only logs it.

A check of the files' names alone would have to know each model's renamed, tied and fused weights, so the account that
transformers gives of a load is read instead.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.errors import DQOError, ModelError, RecipeError
from dqo.files.jsonio import parse_object, read_text

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

Accounts = list[tuple[str, dict[str, Any]]]  # where weights came from, and how that went; an adapter after its base

_SHOWN = 3  # names of weights in a message


def load_whole(
    loader: Any,
    source: str,
    what: str,
    remedy: str,
    *,
    error: type[DQOError] = ModelError,
    read: "Callable[[PreTrainedModel], Tensor] | None" = None,
    device: Any = None,
    **options: Any,
) -> "PreTrainedModel":
    """Loads a model, and refuses one whose output reads a weight that is in none of its files.

    Args:
        loader: Class of transformers with `from_pretrained`.
        source: Folder, or name on the hub.
        what: What was expected and from where, for the error.
        remedy: What to change, for the error.
        error: Class of the error.
        read: Computes the output that counts, of any input; every weight counts where not given.
        device: Where to put the model; None leaves it on the CPU.
        **options: More arguments of `from_pretrained`.

    Returns:
        The model in eval mode.

    Raises:
        DQOError: Of class `error`: loading failed, a weight is missing or has another shape, or an adapter holds
            weights that its base has no place for.
    """
    try:
        model, accounts = _load(loader, source, **options)
        model = model if device is None else model.to(device)
    except Exception as problem:  # the hub's, the network's or the files': all of them mean the same to the user
        raise error(f"expected {what}, but loading failed ({why_failed(problem)}); {remedy}.") from problem
    _refuse_drawn(model, accounts, remedy, error, read and (lambda: read(model)))
    return model


def check_loaded(
    module: "nn.Module", source: str, remedy: str, *, error: type[DQOError], read: "Callable[[], Tensor]"
) -> None:
    """Refuses what another library has loaded where its output reads a weight that is in none of its files.

    Args:
        module: Holds models of transformers, at any depth.
        source: Folder or hub name that the library was given.
        remedy: What to change, for the error.
        error: Class of the error.
        read: Computes the output that counts, of any input.

    Raises:
        DQOError: Of class `error`, naming the model and the first weights.
    """
    from transformers import PreTrainedModel

    inner: list[PreTrainedModel] = []
    for part in module.modules():
        if isinstance(part, PreTrainedModel) and not any(part in model.modules() for model in inner):
            inner.append(part)
    for model in inner:
        place = source if _base_of(source) else model.name_or_path
        check_files(place, remedy, loader=type(model), error=error, live=model, read=read, config=model.config)


def check_files(
    source: str,
    remedy: str,
    *,
    loader: Any = None,
    error: type[DQOError] = ModelError,
    live: "PreTrainedModel | None" = None,
    read: "Callable[[], Tensor] | None" = None,
    **options: Any,
) -> None:
    """Refuses a model by its files, of which only names and shapes are read.

    Args:
        source: Folder, or name on the hub.
        remedy: What to change, for the error.
        loader: Class of transformers with `from_pretrained`; the one that the files name where not given.
        error: Class of the error.
        live: The model as it was loaded, for `read`.
        read: Computes the output that counts; every weight counts where not given.
        **options: More arguments of `from_pretrained`.

    Raises:
        DQOError: Of class `error`, naming the model and the first weights.
    """
    import transformers
    from transformers.integrations import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled():  # it takes no device map
        return
    try:
        config = options.get("config") or transformers.AutoConfig.from_pretrained(_base_of(source) or source)
        if getattr(config, "quantization_config", None):  # packed weights are unpacked on a GPU only
            return
        loader = loader or getattr(transformers, config.architectures[0], transformers.AutoModelForCausalLM)
        model, accounts = _load(loader, source, device_map="meta", **options)
    except Exception as problem:
        raise error(
            f"expected a model in {source!r}, but loading failed ({why_failed(problem)}); {remedy}."
        ) from problem
    _refuse_drawn(live or model, accounts, remedy, error, read)


def _load(loader: Any, source: str, **options: Any) -> "tuple[PreTrainedModel, Accounts]":
    base = _base_of(source) or source
    model, account = loader.from_pretrained(
        base,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # the account names them, the error would not
        use_safetensors=True,
        trust_remote_code=False,
        **options,
    )
    accounts = [(base, account)]
    if base != source:  # of an adapter loaded in one go, transformers gives no account of the base
        accounts.append((source, model.load_adapter(source, use_safetensors=True).to_dict()))
    return model.eval(), accounts


def _base_of(source: str) -> str | None:
    """Base of an adapter; None for a whole model, which may hold an adapter beside its own weights."""
    from transformers.utils import find_adapter_config_file

    file = find_adapter_config_file(source)
    if file is None or (Path(source) / "config.json").is_file():
        return None
    return parse_object(read_text(file, "config of an adapter"), file).get("base_model_name_or_path")


def _refuse_drawn(
    model: "PreTrainedModel",
    accounts: Accounts,
    remedy: str,
    error: type[DQOError],
    read: "Callable[[], Tensor] | None",
) -> None:
    """Raises where weights are drawn, have another shape, or are an adapter's without a place."""
    kind = type(model).__name__
    for number, (source, account) in enumerate(accounts):
        unknown, shapes = sorted(account["unexpected_keys"]), sorted(account["mismatched_keys"])
        # counters and positions are whole numbers, which no model draws
        missing = sorted(n for n in account["missing_keys"] if model.get_parameter_or_buffer(n).is_floating_point())
        if shapes:
            name, found, wanted = shapes[0]
            raise error(
                f"expected the shapes of {kind} in {source!r}, but it holds {name!r} of shape {tuple(found)} for "
                f"{tuple(wanted)}, and {len(shapes) - 1} more of another shape; {remedy}."
            )
        if missing and (read is None or _reads(model, missing, read)):
            others = f" and hold {_listed(unknown)}, which it does not know" if unknown else ""
            if getattr(model.config, "auto_map", None):
                others += " (the code of its own, which config.json asks for, is never run)"
            raise error(
                f"expected every weight of {kind} in {source!r}, but its files lack {_listed(missing)}{others}, and "
                f"random numbers would stand there; {remedy}."
            )
        if unknown and number:
            raise error(
                f"expected an adapter in {source!r} whose weights all have a place in its base, but {_listed(unknown)} "
                f"have none in {kind} and would be left out; load it on the base it was trained on."
            )


def _reads(model: "PreTrainedModel", names: list[str], read: "Callable[[], Tensor]") -> bool:
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
