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
_MOST_CHARACTERS = 200_000  # of a file that somebody sent; PyYAML needs some 20 s for a million


class _Reader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  # those of YAML 1.1 are not inherited
    takes_aliases = True

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        # A tag asks for more than plain data: a date, a set, an object.
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(problem=f"it has the tag {event.tag!r}", problem_mark=event.start_mark)
        if isinstance(event, yaml.AliasEvent) and not self.takes_aliases:
            raise yaml.composer.ComposerError(problem="it has an alias", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if key.tag != f"{_TAG}str":
                came = key.value if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
                raise yaml.constructor.ConstructorError(
                    problem=f"a key must be text, got {came!r}", problem_mark=key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} comes twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _SentReader(_Reader):
    # Aliases of aliases make gigabytes of a few lines, and the writer never writes one.
    takes_aliases = False


class _Writer(yaml.SafeDumper):
    yaml_representers: dict = {  # noqa: RUF012  # plain data alone: the reader knows no dates and no sets
        kind: represent
        for kind, represent in yaml.SafeDumper.yaml_representers.items()
        if kind in (bool, int, float, list, tuple, dict, type(None), None)
    }

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
    """Writes a value as YAML: text that `parse_yaml` reads back as that value."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=float("inf"))


def parse_yaml(text: str, origin: str, sent: bool = False) -> Any:
    """Reads a YAML text as plain data; `sent`, by somebody else, also refuses what could grow without bound."""
    if sent and len(text) > _MOST_CHARACTERS:
        raise RecipeError(f"{origin}: expected at most {_MOST_CHARACTERS} characters of YAML, got {len(text)}.")
    reader = None
    try:
        reader = (_SentReader if sent else _Reader)(text)
        node = reader.get_single_node()
        return None if node is None else reader.construct_object(node, deep=True)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{origin}, line {mark.line + 1}" if mark else origin
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{place}: expected valid YAML, but {problem.removeprefix('but ')}; fix the line.") from error
    except RecursionError as error:
        raise RecipeError(f"{origin}: expected some hundred levels of YAML at most, got more; flatten it.") from error
    except ValueError as error:  # of a whole number with thousands of digits
        raise RecipeError(f"{origin}: expected numbers that a computer can hold ({error}); shorten it.") from error
    finally:
        if reader is not None:
            reader.dispose()
