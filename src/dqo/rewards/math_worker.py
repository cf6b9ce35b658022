"""The program that compares two expressions with math-verify; `dqo.rewards.mathematics` starts it as a process.

JSON lines [gold, answer] come in, `true` or `false` goes out. A comparison that takes too long ends the process.
"""

import json
import re
import resource
import signal
import sys

# Bytes of address space; a tower of powers asks for more than any machine has.
_MEMORY = 4 * 2**30


def main() -> None:
    """Answers until the input ends; the one argument is the time limit of an answer in seconds."""
    # The alarm's own action ends the process in the middle of a C function too, where no Python code would run.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    from math_verify import LatexExtractionConfig, parse, verify

    # Its reader of plain expressions goes through Python's own parser and evaluator; the one of LaTeX runs nothing.
    grammar = [LatexExtractionConfig()]
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    # What the packages print must not look like an answer.
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, max(1e-3, float(sys.argv[1])))  # 0 would be no limit
        try:
            gold, answer = (parse(f"${_latex(text)}$", grammar, parsing_timeout=None) for text in json.loads(line))
            equal = bool(gold and answer and verify(gold, answer, timeout_seconds=None))
        except Exception:  # whatever cannot be read or compared is no right answer
            equal = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(equal), file=out, flush=True)


def _latex(text: str) -> str:
    """The first formula, as math-verify takes the last of several: an answer that is two is its first."""
    parts = (part.strip() for part in re.split(r"(?<!\\)\$", text))
    return next(filter(None, parts), "").replace("**", "^").replace("*", r"\cdot ")


if __name__ == "__main__":
    main()
