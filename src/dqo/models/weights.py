"""Loads models whose every weight stands in their files; transformers draws the others at random and only logs it.

A check of the files' names alone would have to know each model's renamed, tied and fused weights, so the account that
transformers gives of a load is read instead.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqo.errors import ModelError
from dqo.files.jsonio import parse_object, read_text

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

Accounts = list[tuple[str, dict[str, Any]]]  # where weights came from, and how that went; an adapter after its base

REMEDY = "save model and tokenizer again with save_pretrained from the class it was trained as, or choose another model"
_SHOWN = 3  # names of weights in a message
_QUOTED = 240  # characters of an error in a message


class _Unsound(Exception):
    """A model that loads, but with weights that stand in no file, or without some that do."""


@contextmanager
def expecting(what: str, remedy: str = REMEDY) -> Iterator[None]:
    """Makes one ModelError of whatever fails to load inside; `what` says what was expected and from where."""
    try:
        yield
    except Exception as problem:
        # The hub's, the network's or the files': all of them mean the same to the user.
        reason = str(problem) if isinstance(problem, _Unsound) else f"loading failed ({why_failed(problem)})"
        raise ModelError(f"expected {what}, but {reason}; {remedy}.") from problem


def load_whole(
    loader: Any, source: str, what: str, remedy: str = REMEDY, *, device: Any = None, **options: Any
) -> "PreTrainedModel":
    """Loads a model in eval mode; ModelError where loading fails, or where a weight of it stands in no file.

    `what` says what was expected and from where, `options` go to `from_pretrained`.
    """
    with expecting(what, remedy):
        return _load(loader, source, **options).to(device or "cpu")


def check_loaded(module: "nn.Module", source: str, read: "Callable[[], Tensor]") -> None:
    """Refuses what another library has loaded where the output that `read` computes reads a weight of no file."""
    from transformers import PreTrainedModel

    inner: list[PreTrainedModel] = []
    for part in module.modules():
        if isinstance(part, PreTrainedModel) and not any(part in model.modules() for model in inner):
            inner.append(part)
    for model in inner:
        place = source if _base_of(source) else model.name_or_path
        check_files(place, loader=type(model), live=model, read=read, config=model.config)


def check_files(source: str, *, loader: Any = None, **options: Any) -> None:
    """Refuses a model by its files, of which only names and shapes are read.

    The class is the one that the files name where not given. `live` and `read` of the options are those of `_load`.
    """
    import transformers
    from transformers.integrations import is_deepspeed_zero3_enabled

    # DeepSpeed's third stage takes no device map, and packed weights are unpacked on a GPU only.
    if is_deepspeed_zero3_enabled():
        return
    config = options.get("config") or read_part(transformers.AutoConfig, _base_of(source) or source, "model config")
    if getattr(config, "quantization_config", None):
        return
    loader = loader or getattr(transformers, config.architectures[0], transformers.AutoModelForCausalLM)
    with expecting(f"a whole model in {source!r}"):
        _load(loader, source, device_map="meta", **options)


def read_part(loader: Any, source: str, what: str, **options: Any) -> Any:
    """Reads what stands beside the weights of a model, its config or its tokenizer; ModelError where that fails."""
    with expecting(f"a {what} from {source!r}"):
        return loader.from_pretrained(source, trust_remote_code=False, **options)


def _load(
    loader: Any,
    source: str,
    live: "PreTrainedModel | None" = None,
    read: "Callable[[], Tensor] | None" = None,
    **options: Any,
) -> "PreTrainedModel":
    """Loads a model in eval mode; `_Unsound` where what counts of it stands in no file.

    `read` computes the output that counts, by the model `live` as another library has loaded it. Every weight counts
    where it is not given.
    """
    base = _base_of(source) or source
    model, account = loader.from_pretrained(
        base,
        output_loading_info=True,
        # The account names weights of another shape, the error would not.
        ignore_mismatched_sizes=True,
        use_safetensors=True,
        trust_remote_code=False,
        **options,
    )
    accounts = [(base, account)]
    if base != source:
        # Of an adapter that is loaded in one go, transformers gives no account of the base.
        accounts.append((source, model.load_adapter(source, use_safetensors=True).to_dict()))
    if fault := _fault(live or model, accounts, read):
        raise _Unsound(fault)
    return model.eval()


def _base_of(source: str) -> str | None:
    """Base of an adapter; None for a whole model, which may hold an adapter beside its own weights."""
    from transformers.utils import find_adapter_config_file

    file = find_adapter_config_file(source)
    if file is None or (Path(source) / "config.json").is_file():
        return None
    return parse_object(read_text(file, "config of an adapter"), file).get("base_model_name_or_path")


def _fault(model: "PreTrainedModel", accounts: Accounts, read: "Callable[[], Tensor] | None") -> str | None:
    """Says which weights are drawn, have another shape, or are an adapter's without a place."""
    kind = type(model).__name__
    for number, (source, account) in enumerate(accounts):
        unknown, shapes = sorted(account["unexpected_keys"]), sorted(account["mismatched_keys"])
        # Counters and positions are whole numbers, which no model draws.
        missing = sorted(n for n in account["missing_keys"] if model.get_parameter_or_buffer(n).is_floating_point())
        if shapes:
            name, found, wanted = shapes[0]
            wrong = f"{name!r} of shape {tuple(found)} for {tuple(wanted)} of {kind}"
            return f"{source!r} holds {wrong}, and {len(shapes) - 1} more of another shape"
        if missing and (read is None or _reads(model, missing, read)):
            surplus = f", hold {_listed(unknown)} that it does not know" if unknown else ""
            own = " (it brings code of its own, which is never run)" if getattr(model.config, "auto_map", None) else ""
            lack = f"the files of {kind} in {source!r} lack {_listed(missing)}{surplus}"
            return f"{lack}, and random numbers would stand there{own}"
        if unknown and number:
            surplus = f"{_listed(unknown)} of the adapter in {source!r}"
            return f"{surplus} have no place in its base {kind} and would be left out"
    return None


def _reads(model: "PreTrainedModel", names: list[str], read: "Callable[[], Tensor]") -> bool:
    """Tells whether an output depends on any of the weights."""
    # It is then NaN where they are, for NaN survives all arithmetic.
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
    return f"{len(names)} ({', '.join(map(repr, names[:_SHOWN]))}{', …' if len(names) > _SHOWN else ''})"


def why_absent(name: str) -> str | None:
    """Says why a name is no model, asking the hub once; None where a folder, the local cache or the hub has it."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    markers = ("config.json", "adapter_config.json", "modules.json")
    if name and Path(name).is_dir():
        found = any((Path(name) / marker).is_file() for marker in markers)
        return None if found else "that folder holds no config.json"
    try:
        if any(isinstance(try_to_load_from_cache(name, marker), str) for marker in markers):
            return None
        # The loaders retry for most of a minute without a network; this tells an unknown model from a dead network.
        HfApi().model_info(name, timeout=10)
    except HFValidationError:
        return "no such folder exists"
    except Exception as error:  # the hub's, its client's or the socket's: all of them mean the same to the user
        return f"no such folder exists and the hub said no ({first_words(error)})"
    return None


def why_failed(error: Exception) -> str:
    """Says in a few words why a model did not load."""
    # The loader advises an option that dqo does not have where a model brings code of its own.
    asks_for_code = "trust_remote_code" in str(error)
    return "it brings code of its own, which dqo never runs" if asks_for_code else first_words(error)


def first_words(error: Exception) -> str:
    """Quotes type and start of an error's text on one line."""
    words = " ".join(str(error).split())
    short = words if len(words) <= _QUOTED else words[:_QUOTED].rsplit(" ", 1)[0] + " …"
    return ": ".join(filter(None, (type(error).__name__, short.rstrip(" .:"))))
