"""Public names, signatures and settings, as Python shows them."""

import dataclasses
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Collection
from typing import Any

from command_line import once

MODULES = ("dqo", "dqo.core", "dqo.evaluation")
FUNCTIONS = {
    "dqo.core": ("cosine_kernel", "gaussian_kernel", "linear_kernel", "log_volume", "leave_one_out"),
    "dqo.evaluation": ("distinct_n", "vendi_score", "mean_cosine_distance", "pass_at_k", "max_at_k", "self_bleu"),
}
TRLS = {"DQO": "GRPO", "DQORLOO": "RLOO", "DQOPPO": "GRPO"}  # trainer and settings -> those of TRL below them


def public() -> dict[str, Any]:
    """Names and signatures; settings and parameters that TRL does not have, or has with another default."""
    import trl

    import dqo

    modules = {name: importlib.import_module(name) for name in MODULES}
    settings = {
        f"{own}Config": fields_of(getattr(dqo, f"{own}Config"), getattr(trl, f"{other}Config"))
        for own, other in TRLS.items()
    }
    trainers = {
        f"{own}Trainer": trainer_parameters(getattr(dqo, f"{own}Trainer"), getattr(trl, f"{other}Trainer"))
        for own, other in TRLS.items()
    }
    return {
        "names": {name: sorted(module.__all__) for name, module in modules.items()},
        "signatures": {f"{module}.{name}": names_and_defaults(getattr(modules[module], name))
                       for module, names in FUNCTIONS.items() for name in names},
        "settings": once(settings) | {"DiversityReward": parameters(dqo.DiversityReward)} | trainers,
    }  # fmt: skip


def names_and_defaults(function: Callable) -> str:
    """A signature without annotations."""
    signature = inspect.signature(function)
    bare = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


def trainer_parameters(own: type, other: type) -> dict[str, str]:
    """What a trainer takes that the one of TRL below it does not, over all classes between them."""
    known, found = inspect.signature(other).parameters, {}
    for between in own.__mro__:
        if between not in other.__mro__ and "__init__" in vars(between):
            found |= parameters(between, known)
    return found


def verl_settings() -> dict[str, str]:
    """Settings written +dqo.NAME=VALUE: the dataclass in dqo.integrations.verl that has `encoder_actors`."""
    import dqo.integrations.verl as package

    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and "encoder_actors" in getattr(value, "__dataclass_fields__", ()):
                return {f"+dqo.{name}": text for name, text in fields_of(value).items()}
    raise LookupError("no dataclass in dqo.integrations.verl has the field `encoder_actors`")


def kind(hint: Any) -> str:
    """The types that a hint allows, by their names."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(sorted({word for part in typing.get_args(hint) for word in kind(part).split(" | ")}))
    if origin is typing.Literal:
        return " | ".join(sorted({type(value).__name__ for value in typing.get_args(hint)}))
    return "None" if hint is type(None) else getattr(origin or hint, "__name__", str(hint))


def fields_of(own: type, other: type | None = None) -> dict[str, str]:
    """Fields of a dataclass with type and default, but those that another has with the same default."""
    known = {field.name: _default(field) for field in dataclasses.fields(other)} if other else {}
    hints = typing.get_type_hints(own)
    return {
        field.name: f"{kind(hints[field.name])} = {_default(field)!r}"
        for field in dataclasses.fields(own)
        if field.name not in known or known[field.name] != _default(field)
    }


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def parameters(function: Callable, known: Collection[str] = ()) -> dict[str, str]:
    """Named parameters with type and default, but those that are known."""
    hints = typing.get_type_hints(function.__init__)
    return {
        name: kind(hints[name]) + ("" if one.default is one.empty else f" = {one.default!r}")
        for name, one in inspect.signature(function).parameters.items()
        if name not in known and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    }
