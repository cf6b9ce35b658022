"""The program that compares two expressions with math-verify; run as a process by math_process.py.

One JSON line [gold, answer] comes in, `true` or `false` goes out. Only the LaTeX grammar of math-verify is used: its
reader of plain expressions goes through Python's own parser and evaluator.
"""

import json
import re
import resource
import sys

_MEMORY = 4 * 2**30  # bytes of address space; a tower of powers asks for more than any machine has


def main() -> None:
    """Answer until the input ends."""
    from math_verify import LatexExtractionConfig, parse, verify

    grammar = [LatexExtractionConfig()]
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    out, sys.stdout = sys.stdout, sys.stderr  # what the packages print must not look like an answer
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        try:
            gold, answer = (parse(f"${_latex(text)}$", grammar, parsing_timeout=None) for text in json.loads(line))
            equal = bool(gold and answer and verify(gold, answer, timeout_seconds=None))
        except Exception:  # whatever cannot be read or compared is no right answer
            equal = False
        print(json.dumps(equal), file=out, flush=True)


def _latex(text: str) -> str:
    """The first formula, as math-verify takes the last of several: an answer that is two is its first."""
    parts = (part.strip() for part in re.split(r"(?<!\\)\$", text))
    return next(filter(None, parts), "").replace("**", "^").replace("*", r"\cdot ")


if __name__ == "__main__":
    main()
