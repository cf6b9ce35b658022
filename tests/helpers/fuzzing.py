"""Throws inputs that are nearly right at what reads them: Unicode of every kind, spoiled JSON and YAML."""

import inspect
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dqo.errors import DQOError, printable

EXAMPLES = int(os.environ.get("FUZZ", 0))  # inputs for the cheapest reader; 0: a few, the same ones each time
LIMIT = 20  # seconds of processor time for one input

# Each is trouble for somebody: lone surrogates, NUL, escapes of a terminal, line separators that are not line feeds,
# right-to-left overrides, combining marks, characters beyond 16 bits, other digits, markup, ways up and out.
ODD = (
    "\ud800", "\udfff", "\x00", "\x1b[31m", "\u2028", "\u2029", "\x85", "\x0b", "\r", "\ufeff", "\u202e", "\u2066",
    "e\u0301\u0301\u0301", "\U0001f469\u200d\U0001f4bb", "\U0010ffff", "\u0663", "²", "ß", "İ", "</script>", "{{7*7}}",
    "`" * 5, "../../x", "/etc/passwd", "C:\\x", "%s%n", "\\frac{1}{0}", "[bold]", "#### 1", "\\boxed{" * 20, "(" * 200,
    "9" * 5000,
)  # fmt: skip
YAML = (
    "a", "task", "alpha", "trainer", ":", ": ", "\n", "\n  ", "- ", "[", "]", "{", "}", ",", "&a ", "*a", "<<: *a",
    "!!int ", "!!timestamp ", "!!binary ", "!!set ", "!!float ", "!!bool ", "!!null ", "!!omap ", "!!pairs ", "!x ",
    "!!python/object/apply:os.system ['false']", "%YAML 9.9\n---\n", "---", "...", "|", ">", "'", '"', "#", "?",
    "1e999", "9" * 5000, "0x1f", "1_0", ".nan", "~", "null: 1", "true: 2", "1: 2", "[" * 2000, "{a: " * 600,
    "\x00", "\ufeff", "\x85", "=", "@", "`", "2026-13-45", "12:30:99", "\t", "!!merge ",
)  # fmt: skip
GROUPS = [
    {"id": "q1", "prompt": "Say.", "reference": [], "responses": ["a b", ""], "finish": ["eos", "length"],
     "rewards": [1, 0.5], "meta": {}},
    {"id": "q2", "prompt": "Tell.", "reference": "c", "responses": ["c", "d"], "finish": ["eos", "eos"],
     "rewards": None, "meta": {"id": "q2"}},
]  # fmt: skip
long_text = st.tuples(st.sampled_from([*ODD, "a ", "word "]), st.sampled_from([200, 20_000, 1_000_000]))
odd_text = st.one_of(st.sampled_from(ODD), st.text(st.characters(codec=None), max_size=6))
text = st.one_of(
    st.text(max_size=12),
    st.lists(odd_text, max_size=5).map("".join),
    long_text.map(lambda pair: pair[0] * (pair[1] // len(pair[0]))),
)
yaml_text = st.lists(st.one_of(st.sampled_from(YAML), text), max_size=12).map("".join)
numbers = st.one_of(
    st.integers(-3, 3), st.integers(), st.sampled_from([10**400, -(10**400), 2**63, 1e308, 5e-324, -0.0]), st.floats()
)  # fmt: skip
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=6,
)


def fuzz(inputs: st.SearchStrategy, cost: int = 1) -> Callable:
    """Turn `test(value)`, or `test(value, folder)`, into a test of many values; dear readers get fewer of them."""
    options = {"database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
    size = {"max_examples": max(20, EXAMPLES // cost)} if EXAMPLES else {"max_examples": max(8, 60 // cost)}

    def decorate(read: Callable) -> Callable:
        folders = len(inspect.signature(read).parameters) - 1

        def test(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
            with refusing_in_a_sentence(), within(LIMIT):
                read(value, *(tmp_path_factory.mktemp("fuzz") for _ in range(folders)))

        test.__doc__ = read.__doc__
        return settings(**options, **size, derandomize=not EXAMPLES)(given(value=inputs)(test))

    return decorate


@contextmanager
def refusing_in_a_sentence() -> Iterator[None]:
    """Pass where nothing is raised, or a DQOError of a sentence a mistake; a bare exception is a crash."""
    sentence = "Taken."
    try:
        yield
    except DQOError as error:
        sentence = str(error)
    for line in sentence.split("\n"):  # one a mistake
        assert line.strip(), f"refused without a word: {sentence!r}"
        assert len(printable(line)) <= 3000, line


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail after so many seconds of processor time, which a busy machine does not stretch."""

    def ring(*_: Any) -> None:
        pytest.fail(f"more than {seconds} s of processor time on one input")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@st.composite
def nearly(draw: st.DrawFn, document: Any) -> Any:
    """A document with one to three of its parts replaced, removed, doubled or renamed."""
    changed = deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        changed = _spoil(draw, changed)
    return changed


def _spoil(draw: st.DrawFn, part: Any) -> Any:
    if not isinstance(part, dict | list) or not part or draw(st.integers(0, 9)) == 0:
        return draw(anything)
    place = draw(st.sampled_from(list(part) if isinstance(part, dict) else range(len(part))))
    action = draw(st.sampled_from(["inside", "inside", "inside", "replace", "remove", "add"]))
    if action == "inside":
        part[place] = _spoil(draw, part[place])
    elif action == "replace":
        part[place] = draw(anything)
    elif action == "remove":
        del part[place]
    elif isinstance(part, dict):
        part[draw(text)] = draw(anything)
    else:
        part.append(draw(anything))
    return part


@st.composite
def json_lines(draw: st.DrawFn, rows: list[Any]) -> bytes:
    """A file of JSON lines of which one is spoiled: in its data, in its bytes, cut in half, doubled, or all of it."""
    lines = [json.dumps(row).encode() for row in rows]  # NaN and lone surrogates included, as a careless program does
    place = draw(st.integers(0, len(lines) - 1))
    kind = draw(st.sampled_from(["data", "data", "data", "bytes", "cut", "double", "noise", "deep", "raw"]))
    if kind == "data":
        lines[place] = json.dumps(draw(nearly(rows[place]))).encode()
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
