"""Reads and writes YAML as people expect it: 1e-5 is a number, `no` is a word, and a key may not come twice.

PyYAML follows YAML 1.1, where `1e-5` is text, `no` is false and 12:30 is 750. The reader takes plain data only and
reads scalars by the core schema of YAML 1.2. The writer quotes a text that either version would read as something else,
so that other programs read back what is written here.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from dqo.errors import RecipeError

_TAG = "tag:yaml.org,2002:"


class _Reader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  # those of YAML 1.1 are not inherited
    takes_aliases = True

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        # A tag asks for more than plain data: a date, a set, an object.
        refused = f"the tag {event.tag!r}" if getattr(event, "tag", None) else None
        if isinstance(event, yaml.AliasEvent) and not self.takes_aliases:
            refused = "an alias"
        if refused:
            raise yaml.composer.ComposerError(problem=f"it has {refused}", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_document(self, node: yaml.Node) -> Any:
        return self.construct_object(node, deep=True)  # else a list may hold itself

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            came = key.value if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
            if key.tag != f"{_TAG}str" or came in seen:
                problem = f"the key {came!r} comes twice" if came in seen else f"a key must be text, got {came!r}"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            seen.add(came)
        return super().construct_mapping(node, deep)


class _SentReader(_Reader):
    # Aliases of aliases make gigabytes of a few lines, and the writer never writes one.
    takes_aliases = False


class _Writer(yaml.SafeDumper):
    def represent_text(self, text: str) -> yaml.ScalarNode:
        # Double quotes keep line breaks and characters that do not print.
        return self.represent_scalar(f"{_TAG}str", text, style=None if text.isprintable() else '"')

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Writer.add_representer(str, _Writer.represent_text)
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


def read_yaml_file(path: str | Path) -> dict[str, Any]:
    """Reads the mapping that a YAML file holds; {} for an empty file."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # not there, or no UTF-8
        came = getattr(error, "strerror", None) or error
        raise RecipeError(f"{path}: expected a readable recipe, got {came}; check path and encoding.") from error
    value = parse_yaml(text, str(path))
    if value is not None and not isinstance(value, dict):
        raise RecipeError(f"{path}: expected `key: value` lines, got a {type(value).__name__}; see recipes/.")
    return value or {}


def to_yaml(value: Any) -> str:
    """Writes a value as YAML: text that `parse_yaml` reads back as that value."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=float("inf"))


def parse_yaml(text: str, origin: str, sent: bool = False) -> Any:
    """Reads a YAML text; `sent`, by somebody else, also refuses aliases."""
    try:
        return (_SentReader if sent else _Reader)(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the last two of numbers and of levels without end
        mark = getattr(error, "problem_mark", None)
        place = f"{origin}, line {mark.line + 1}" if mark else origin
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{place}: expected valid YAML, but {problem.removeprefix('but ')}; fix the line.") from error
