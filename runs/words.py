"""Counts words per sentence of README and docs, and warns of pages above the aim; it stops nothing.

python runs/words.py [PAGE ...]
"""

import re
import sys
from pathlib import Path

AIM = 18.0  # mean words per sentence of a page
ROOT = Path(__file__).parents[1]


def sentences(page: str) -> list[str]:
    """Sentences of Markdown; headings, code, formulas set apart and tables are none."""
    page = re.sub(r"^```.*?^```|<!--.*?-->", "", page, flags=re.S | re.M)
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", page)  # paragraphs and items of lists
    prose = [" ".join(block.split()) for block in blocks if not re.match(r"\s*(#|\||!\[|:::|    )", block)]
    parts = (part for block in prose for part in re.split(r"(?<=[.!?])[*_)]*\s+(?=[A-Z*`(\[$\"])", block))
    return [part for part in parts if len(part.split()) > 2]


def main() -> None:
    """Prints a line per page, the longest mean first, and its longest sentence where it is above the aim."""
    pages = [Path(name).resolve() for name in sys.argv[1:]] or [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    found = {page: [len(sentence.split()) for sentence in sentences(page.read_text())] for page in pages}
    means = {page: sum(counts) / len(counts) for page, counts in found.items() if counts}
    for page, mean in sorted(means.items(), key=lambda item: -item[1]):
        longest = max(sentences(page.read_text()), key=lambda sentence: len(sentence.split()))
        warning = f"   above {AIM:g}; longest: {longest[:70]}…" if mean > AIM else ""
        print(f"{mean:5.1f} words, {len(found[page]):4} sentences  {page.relative_to(ROOT)}{warning}")
    every = [count for counts in found.values() for count in counts]
    print(f"{sum(every) / len(every):5.1f} words per sentence of all; the aim is {AIM:g}")


if __name__ == "__main__":
    main()
