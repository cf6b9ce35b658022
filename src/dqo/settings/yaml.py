"""Reads and writes YAML as people expect it: 1e-5 is a number, `no` is a word, and a key may not come twice.

PyYAML follows YAML 1.1, where `1e-5` is text, `no` is false and 12:30 is 750. The reader keeps the safety of its safe
loader (plain data only) and reads scalars by the core schema of YAML 1.2. The writer puts a text in quotes where either
version would read something else, so what is written here is read back as it was, by other programs too.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dqo.errors import RecipeError


class _Reader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  # those of YAML 1.1 are not inherited

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A mapping of text keys, each once."""
        seen = set()
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if key_node.tag != f"{_TAG}str":
                came = key if isinstance(key_node, yaml.ScalarNode) else f"a {key_node.id}"
                raise RecipeError(
                    f"{self.name}, line {line}: expected text as a key, got {came!r}; write `key: value`."
                )
            if key in seen:
                raise RecipeError(f"{self.name}, line {line}: the key {key!r} comes twice; remove one of the two.")
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Writer(yaml.SafeDumper):
    yaml_representers: dict = {  # noqa: RUF012  # plain data alone: the reader knows no dates and no sets
        kind: represent
        for kind, represent in yaml.SafeDumper.yaml_representers.items()
        if kind in (bool, int, float, list, tuple, dict, type(None), None)
    }

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A text, in double quotes where it has more than one line or characters that do not print."""
        if not _writable(text):
            raise RecipeError(f"expected text without NUL and half characters to write as YAML, got {text!r}.")
        return self.represent_scalar(f"{_TAG}str", text, style=None if text.isprintable() else '"')

    def ignore_aliases(self, data: Any) -> bool:
        """Write what comes twice twice."""
        return True


_Writer.add_representer(str, _Writer.represent_text)


_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    "int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
for _name, (_pattern, _first) in _SCALARS.items():
    for _class in (_Reader, _Writer):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})\Z"), list(_first))
_MOST_PARTS = 10_000  # values of one file, those that an alias repeats counted again
_MOST_CHARACTERS = 200_000  # of one text; the reader needs some 20 s for a million
_MOST_DIGITS = 400  # of a number: more do not fit a double


def read_yaml_file(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; {} for an empty file.

    Args:
        path: UTF-8 file.

    Returns:
        Keys and values in file order.

    Raises:
        RecipeError: An unreadable file, no valid YAML, a key that comes twice, or no mapping; names file and line.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{path}: expected a readable recipe, got {error.strerror}; check the path.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: expected UTF-8 text, got {error.reason}; save the file as UTF-8.") from error
    except ValueError as error:
        raise RecipeError(f"{str(path)!r}: expected the path of a recipe, got {error}; correct it.") from error
    value = parse_yaml(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: expected `key: value` lines, got a {type(value).__name__}; see recipes/.")
    return value


def to_yaml(value: Any) -> str:
    """A value as YAML.

    Args:
        value: Mappings by text keys, lists, text, numbers, booleans, None.

    Returns:
        Text that `parse_yaml` reads back as that value.

    Raises:
        RecipeError: A text that no YAML file can hold.
    """
    return yaml.dump(value, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=float("inf"))


def parse_yaml(text: str, origin: str) -> Any:
    """The value of a YAML text.

    Args:
        text: YAML.
        origin: Where it comes from, for messages.

    Returns:
        Plain data: mappings, lists, text, numbers, booleans, None.

    Raises:
        RecipeError: No valid YAML, a key that comes twice or is no text, a tag that asks for more than plain data,
            aliases and nesting that would make much out of little, or a text beyond any recipe's length.
    """
    if len(text) > _MOST_CHARACTERS:
        raise RecipeError(
            f"{origin}: expected at most {_MOST_CHARACTERS} characters of YAML, got {len(text)}; put data in a file "
            "of its own."
        )
    reader = None
    try:
        reader = _Reader(text)
        reader.name = origin
        node = reader.get_single_node()
        if node is None:
            return None
        _check_parts(node, origin)
        return reader.construct_document(node)
    except RecursionError as error:
        raise RecipeError(f"{origin}: expected some hundred levels of YAML at most, got more; flatten it.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{origin}, line {mark.line + 1}" if mark else origin
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(
            f"{place}: expected valid YAML, but {problem.removeprefix('but ')}; mend the line."
        ) from error
    finally:
        if reader is not None:
            reader.dispose()


def _check_parts(root: yaml.Node, origin: str) -> None:
    """Refuse what PyYAML would stumble over, or expand beyond reason."""
    waiting, seen = [root], 0
    while waiting:
        node = waiting.pop()
        seen += 1
        if seen > _MOST_PARTS:
            raise RecipeError(
                f"{origin}: expected at most {_MOST_PARTS} values, aliases written out, got more; shorten it, and let "
                "no alias hold itself."
            )
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node, f"{origin}, line {node.start_mark.line + 1}")
        elif node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            place = f"{origin}, line {node.start_mark.line + 1}"
            raise RecipeError(f"{place}: expected plain data, got {node.tag!r}; remove the tag.")
        elif isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
        else:
            waiting += node.value


def _check_scalar(node: yaml.ScalarNode, place: str) -> None:
    kind, value = node.tag.removeprefix(_TAG), node.value
    if kind not in (*_SCALARS, "str") or (kind != "str" and not re.fullmatch(_SCALARS[kind][0], value)):
        raise RecipeError(f"{place}: expected plain data, got {value!r} tagged {node.tag!r}; remove the tag.")
    digits = kind in ("int", "float") and value.lstrip("+-").lower() not in (".inf", ".nan")
    if digits and (len(value) > _MOST_DIGITS or math.isinf(float(value))):
        raise RecipeError(f"{place}: expected a number that a computer can hold, got {value!r}; change the value.")
    if not _writable(value):
        raise RecipeError(f"{place}: expected text without NUL and half characters, got {value!r}; change the value.")


def _writable(text: str) -> bool:
    """Whether a text has neither NUL nor half a character."""
    return not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in text)


# The settings of a recipe as one flat table, `trainer.learning_rate: 1e-5`, and back to sections.

SECTIONS = ("task_options", "data", "lora", "trainer")


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings of a recipe file by dotted name, not yet checked.

    Args:
        path: YAML file.

    Returns:
        Dotted name -> value, in file order.

    Raises:
        RecipeError: An unreadable file, or a section that is no mapping.
    """
    return flat_settings(read_yaml_file(path), str(path))


def flat_settings(document: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Settings by dotted name.

    Args:
        document: Settings as a recipe nests them, or dotted already.
        origin: Where they come from, for messages.

    Returns:
        Dotted name -> value.

    Raises:
        RecipeError: A section that is no mapping, or a setting that is given twice.
    """
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if key not in SECTIONS or isinstance(value, dict):
            given = {f"{key}.{name}": inner for name, inner in value.items()} if key in SECTIONS else {key: value}
            if twice := [name for name in given if name in flat]:
                raise RecipeError(
                    f"{origin}: expected each setting once, got {twice[0]!r} both in its section and by its dotted "
                    "name; remove one of the two."
                )
            flat |= given
        elif value is not None:
            raise RecipeError(f"{origin}: `{key}` must be a mapping of settings, got {value!r}; indent them below it.")
    return flat


def not_cleared(settings: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """What stays of earlier settings under a document that changes some: one with `lora: {}` means no LoRA at all.

    Args:
        settings: Dotted name -> value, the earlier ones.
        document: What is laid over them, as `flat_settings` takes it.

    Returns:
        The settings without those of a section that the document names and leaves empty or null.
    """
    cleared = [key for key in SECTIONS if key in document and not document[key]]
    return {key: value for key, value in settings.items() if key.partition(".")[0] not in cleared}


def nested_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name as a recipe nests them; the reverse of `flat_settings`.

    Args:
        settings: Dotted name -> value.

    Returns:
        What to write as YAML.
    """
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    return nested
