"""YAML as people expect it: 1e-5 is a number, `no` is a word, and a key may not come twice.

PyYAML's safe loader follows YAML 1.1, where `1e-5` is text, `no` is false and 12:30 is 750; this one keeps its safety
(plain data only) and reads scalars by the core schema of YAML 1.2.
"""

import re
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
            if not isinstance(key, str):
                raise RecipeError(f"{self.name}, line {line}: expected text as a key, got {key!r}; write `key: value`.")
            if key in seen:
                raise RecipeError(f"{self.name}, line {line}: the key {key!r} comes twice; remove one of the two.")
            seen.add(key)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Reader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


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
    value = parse_yaml(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: expected `key: value` lines, got a {type(value).__name__}; see recipes/.")
    return value


def parse_yaml(text: str, origin: str) -> Any:
    """The value of a YAML text.

    Args:
        text: YAML.
        origin: Where it comes from, for messages.

    Returns:
        Plain data: mappings, lists, text, numbers, booleans, None.

    Raises:
        RecipeError: No valid YAML, or a key that comes twice.
    """
    reader = None
    try:
        reader = _Reader(text)
        reader.name = origin
        return reader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{origin}, line {mark.line + 1}" if mark else origin
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{place}: expected valid YAML, but {problem}; mend the line.") from error
    finally:
        if reader is not None:
            reader.dispose()
