"""Checks a document against a pydantic model and reports all its mistakes at once, a sentence each."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, field, fields
from functools import cache
from itertools import groupby
from pkgutil import resolve_name
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from dqo.errors import DataError, DQOError, RecipeError, choices, nearest

# Numbers are finite, true is no number, 1 may stand for 1.0, and an unknown key is a mistake.
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True, arbitrary_types_allowed=True)

_WORDS = {
    "string_type": "text", "float_type": "a number", "int_type": "a whole number", "bool_type": "true or false",
    "list_type": "a list", "dict_type": "a mapping", "model_type": "a mapping", "none_required": "null",
    "finite_number": "a finite number", "literal_error": "{expected}", "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}", "less_than": "below {lt:g}", "less_than_equal": "at most {le:g}",
    "too_short": "a list of at least {min_length}", "string_pattern_mismatch": "text of the form {pattern}",
    "invalid-json-value": "a value that JSON has",
}  # fmt: skip


class Strict(BaseModel):
    """Base of models of files: strict types, no unknown keys, unchanged after it is made."""

    model_config = STRICT


Model = TypeVar("Model", bound=BaseModel)


def check(
    model: type[Model],
    document: Mapping[str, Any],
    origin: str | Mapping[str, str],
    advice: Mapping[str, str] | None = None,
    error: type[DQOError] = RecipeError,
) -> Model:
    """Checks a document, such as the content of a YAML file, against a model.

    Args:
        model: Fields with types and bounds, `Annotated[float, Field(gt=0)]`; best a subclass of `Strict`.
        document: Plain data by text keys.
        origin: The file or section, for messages; or dotted key -> where its value comes from, "" for the whole.
        advice: Dotted name of a key that has no place here -> what to do instead.
        error: Raised; a `RecipeError` by default, `DataError` for data.

    Returns:
        The model, made of the document.

    Raises:
        DQOError: Names every mistake of the document: one line and one sentence each, with file, key and value.
    """
    try:
        return model.model_validate(document)
    except ValidationError as found:
        mistakes = [_in_document(mistake, document) for mistake in found.errors(include_url=False)]
    names = list(_names(model))
    noun = "field" if error is DataError else "setting"
    sentences = []
    # What is missing is said in one sentence.
    for _, same in groupby(mistakes, key=lambda mistake: mistake["type"] == "missing" or mistake["path"]):
        group = list(same)
        path = group[0]["path"]
        source = origin if isinstance(origin, str) else _source(path, origin)
        sentences.append(f"{source}: {_sentence(path, group, names, advice or {}, noun)}")
    raise error("\n".join(sentences))


def setting(default: Any, text: str) -> Any:
    """Declares a field of a settings dataclass, which `check_fields` checks.

    The default may be what makes it, `list` or `dict`, or MISSING, where a value must be given. The text says in one
    sentence what the field means: `--help`, editors and docs/reference/settings.md show it.
    """
    kind = "default_factory" if callable(default) else "default"
    return field(**{kind: default}, metadata={"help": text, "checked": True})  # TRL reads "help"


@cache
def model_of(settings: type, names: tuple[str, ...] | None = None) -> type[BaseModel]:
    """Makes the strict model that checks a settings dataclass, with its defaults and help texts.

    It has the named fields, or those that `setting` declares; bounds stand in annotations,
    `Annotated[float, Field(gt=0)]`.
    """
    hints = get_type_hints(settings, include_extras=True)
    taken = [one for one in fields(settings) if (one.metadata.get("checked") if names is None else one.name in names)]
    return create_model(
        settings.__name__, __base__=Strict, **{one.name: (hints[one.name], _field(one)) for one in taken}
    )


def check_fields(settings: Any) -> None:
    """Refuses an instance of a settings dataclass whose values have other types than declared, or are out of bounds."""
    model = model_of(type(settings))
    check(model, {name: getattr(settings, name) for name in model.model_fields}, type(settings).__name__)


def _field(one: Any) -> Any:
    """A field of a dataclass as pydantic declares it."""
    text = one.metadata.get("help")
    if one.default_factory is not MISSING:
        return Field(default_factory=one.default_factory, description=text)
    return Field(... if one.default is MISSING else one.default, description=text)


def _names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields; those of a section stand behind its own."""
    for name, one in model.model_fields.items():
        yield prefix + name
        if isinstance(one.annotation, type) and issubclass(one.annotation, BaseModel):
            yield from _names(one.annotation, f"{prefix}{name}.")


def _in_document(mistake: Any, document: Mapping[str, Any]) -> dict[str, Any]:
    """A mistake with its `path`, and the value there."""
    value: Any = document
    keys: list[str] = []
    for part in mistake["loc"]:
        # Behind the last key, pydantic names the branch of a union: ("alpha", "float").
        inside = part in value if isinstance(value, Mapping) else isinstance(value, list) and isinstance(part, int)
        if not inside:
            if mistake["type"] == "missing":
                keys.append(str(part))
            break
        value = value[part]
        keys.append(str(part))
    return {**mistake, "path": ".".join(keys), "value": value}


def _source(path: str, origin: Mapping[str, str]) -> str:
    """Where the value at a path comes from; a section has that of the whole."""
    while path not in origin and path:
        path = path.rpartition(".")[0]
    return origin[path]


def _sentence(path: str, group: list[dict[str, Any]], names: list[str], advice: Mapping[str, str], noun: str) -> str:
    first = group[0]
    section, _, name = path.rpartition(".")
    if first["type"] == "extra_forbidden" and path in advice:
        return f"`{path}` has no place here; {advice[path]}."
    if first["type"] == "extra_forbidden":
        near = nearest(name, names)
        valid = [one.rpartition(".")[2] for one in names if one.rpartition(".")[0] == section]
        listed = f"choose one of {', '.join(valid)}, or remove it." if valid else "remove it."
        remedy = f"did you mean {near!r}?" if near else listed
        return f"expected a known {noun}, got {path!r}; {remedy}"
    if first["type"] == "missing":
        missing = " and ".join(f"`{one['path']}`" for one in group)
        lines = " and ".join(f"a line `{one['path'].rpartition('.')[2]}: ...`" for one in group)
        return f"expected the {noun}{'s' * (len(group) > 1)} {missing}, got none; add {lines}."
    if first["type"] == "value_error":  # of a validator of ours, which says all
        return str(first["ctx"]["error"])
    words = dict.fromkeys(_words(one) for one in group)
    return f"`{path}` must be {' or '.join(words)}, got {first['value']!r}; change the value."


def _words(mistake: Mapping[str, Any]) -> str:
    """What was expected: "a number", "above 0", "one of add, gate"."""
    context = dict(mistake.get("ctx", {}))
    if mistake["type"] == "literal_error":
        words = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        context["expected"] = choices(mistake["value"], words) if len(words) > 1 else words[0]
    return _WORDS.get(mistake["type"], mistake["msg"]).format(**context)


# From a name in a recipe to an object: tables of "module:Class", imported on first use, with their options checked.


def build(kind: str, table: Mapping[str, str], name: str, options: Mapping[str, Any], extra: str) -> Any:
    """Makes the object of a name in a table, name -> "module:Class", with options as keyword arguments.

    RecipeError for an unknown name, a wrong option or a missing package. For its message, `kind` is what the table
    holds, such as "task", and `extra` the extra of this package that brings what the classes import.
    """
    if name not in table:
        raise RecipeError(f"{kind}: expected {choices(name, table)}, got {name!r}.")
    try:
        target = resolve_name(table[name])
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"{kind} {name!r} needs the package {error.name!r}, which is not installed; run "
            f"`pip install -e '.[{extra}]'`."
        ) from error
    hints = get_type_hints(target.__init__, include_extras=True)
    parameters = {
        one.name: (hints.get(one.name, Any), ... if one.default is one.empty else one.default)
        for one in inspect.signature(target).parameters.values()
    }
    check(create_model(name, __base__=Strict, **parameters), options, f"{kind} {name!r}")
    return target(**options)


def plain(value: Any) -> Any:
    """Gives each number one spelling: 1, 1.0 and 1e0 are 1, in folder names and comparisons."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
