"""One line of a diagnosis, and how a diagnosis is printed."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What was looked at.

    Attributes:
        ok: Whether it does.
        what: What was looked at and found.
        mend: Command or advice where it does not.
        vital: Whether what the diagnosis is for needs it.
    """

    ok: bool
    what: str
    mend: str = ""
    vital: bool = True


def tell(findings: Iterable[Finding]) -> int:
    """Print findings as they are made.

    Args:
        findings: Of a diagnosis.

    Returns:
        How many vital ones do not do.
    """
    broken = 0
    for finding in findings:
        broken += finding.vital and not finding.ok
        mark = "ok     " if finding.ok else "MISSING" if finding.vital else "absent "
        print(f"  {mark} {finding.what}" + ("" if finding.ok else f"\n          -> {finding.mend}"), flush=True)
    return broken
