"""What the fuzz tests throw at the doors: Unicode of every kind, JSON and YAML that are nearly right."""

import json
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

# Each is trouble for somebody: lone surrogates, NUL, escapes of a terminal, line separators that are not line feeds,
# right-to-left overrides, combining marks, characters beyond 16 bits, other digits, markup, ways up and out.
ODD = (
    "\ud800", "\udfff", "\x00", "\x1b[31m", "\u2028", "\u2029", "\x85", "\x0b", "\r", "\ufeff", "\u202e", "\u2066",
    "e\u0301\u0301\u0301", "\U0001f469\u200d\U0001f4bb", "\U0010ffff", "\u0663", "²", "ß", "İ", "</script>", "{{7*7}}",
    "`" * 5, "../../x", "/etc/passwd", "C:\\x", "%s%n", "\\frac{1}{0}", "[bold]", "#### 1", "\\boxed{" * 20, "(" * 200,
    "9" * 5000,
)  # fmt: skip
text = st.one_of(
    st.text(max_size=12),
    st.lists(st.one_of(st.sampled_from(ODD), st.text(st.characters(codec=None), max_size=6)), max_size=5).map("".join),
    st.tuples(st.sampled_from([*ODD, "a ", "word "]), st.sampled_from([200, 20_000, 1_000_000])).map(
        lambda pair: pair[0] * (pair[1] // len(pair[0]))
    ),
)
numbers = st.one_of(
    st.integers(-3, 3), st.integers(), st.sampled_from([10**400, -(10**400), 2**63, 1e308, 5e-324, -0.0]),
    st.floats(allow_nan=True, allow_infinity=True),
)  # fmt: skip
scalars = st.one_of(st.none(), st.booleans(), numbers, text)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def nearly(draw: st.DrawFn, document: Any, values: st.SearchStrategy = anything) -> Any:
    """A document with one to three of its parts replaced, removed, doubled or renamed.

    Args:
        draw: Given by hypothesis.
        document: What a program would have written.
        values: What parts are replaced with.

    Returns:
        Plain data.
    """
    changed = deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        changed = _spoil(draw, changed, values)
    return changed


def _spoil(draw: st.DrawFn, part: Any, values: st.SearchStrategy) -> Any:
    if not isinstance(part, dict | list) or not part or draw(st.integers(0, 9)) == 0:
        return draw(values)
    places = list(part) if isinstance(part, dict) else list(range(len(part)))
    place = draw(st.sampled_from(places))
    action = draw(st.sampled_from(["inside", "inside", "inside", "replace", "remove", "add"]))
    if action == "inside":
        part[place] = _spoil(draw, part[place], values)
    elif action == "replace":
        part[place] = draw(values)
    elif action == "remove":
        del part[place]
    elif isinstance(part, dict):
        part[draw(text)] = draw(values)
    else:
        part.append(draw(values))
    return part


def encoded(value: Any) -> bytes:
    """Plain data as a careless program would write it: NaN and lone surrogates included."""
    return json.dumps(value, ensure_ascii=True).encode()


@st.composite
def json_lines(draw: st.DrawFn, rows: list[Any]) -> bytes:
    """A file of JSON lines of which one is spoiled: in its data, in its bytes, cut in half, doubled, or all of it."""
    lines = [encoded(row) for row in rows]
    place = draw(st.integers(0, len(lines) - 1))
    kind = draw(st.sampled_from(["data", "data", "data", "bytes", "cut", "double", "noise", "deep", "raw"]))
    if kind == "data":
        lines[place] = encoded(draw(nearly(rows[place])))
    elif kind == "bytes":
        at = draw(st.integers(0, len(lines[place])))
        lines[place] = lines[place][:at] + draw(st.binary(min_size=1, max_size=4)) + lines[place][at + 1 :]
    elif kind == "cut":
        lines[place] = lines[place][: draw(st.integers(0, len(lines[place])))]
    elif kind == "double":
        lines.append(lines[place])
    elif kind == "deep":
        depth = draw(st.sampled_from([100, 990, 3000, 100_000]))
        lines[place] = lines[place][:-1] + b', "meta": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
    elif kind == "raw":
        lines[place] = json.dumps(draw(nearly(rows[place])), ensure_ascii=False).encode("utf-8", "surrogatepass")
    else:
        return draw(st.binary(max_size=60))
    return b"\n".join(lines) + draw(st.sampled_from([b"\n", b"", b"\r\n"]))


_YAML = (
    "a", "task", "alpha", "trainer", ":", ": ", "\n", "\n  ", "- ", "[", "]", "{", "}", ",", "&a ", "*a", "<<: *a",
    "!!int ", "!!timestamp ", "!!binary ", "!!set ", "!!float ", "!!bool ", "!!null ", "!!omap ", "!!pairs ", "!x ",
    "!!python/object/apply:os.system ['false']", "%YAML 9.9\n---\n", "---", "...", "|", ">", "'", '"', "#", "?",
    "1e999", "9" * 5000, "0x1f", "1_0", ".nan", "~", "null: 1", "true: 2", "1: 2", "[" * 2000, "{a: " * 600,
    "\x00", "\ufeff", "\x85", "=", "@", "`", "2026-13-45", "12:30:99", "\t", "!!merge ",
)  # fmt: skip
yaml_text = st.lists(st.one_of(st.sampled_from(_YAML), text), max_size=12).map("".join)
