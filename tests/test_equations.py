"""Docstrings cite equations of docs/math.md; every cited number must be there, once."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MATH = (ROOT / "docs" / "math.md").read_text()
TAGS = re.findall(r"\\tag\{(\d+\.\d+)\}", MATH)


def cited(source: str) -> set[str]:
    """Numbers of citations like `docs/math.md eq. 5.6 and 5.7; k-DPP 5.8`."""
    sentences = re.findall(r"docs/math\.md eq\. ((?:[^.]|\.\d)*)", re.sub(r"\s+", " ", source))
    return {number for sentence in sentences for number in re.findall(r"\d+\.\d+", sentence)}


def test_reader_finds_numbers():
    assert cited("Source: docs/math.md eq. 5.6 and 5.7; k-DPP 5.8.\n And 9.9") == {"5.6", "5.7", "5.8"}


def test_every_cited_equation_exists():
    missing = {
        f"{path.name}: {number}"
        for path in (ROOT / "src").rglob("*.py")
        for number in cited(path.read_text()) - set(TAGS)
    }
    assert missing == set()
    assert len(cited((ROOT / "src/dqo/core/kernels.py").read_text())) == 3, "the reader must see the citations"


def test_every_cited_section_exists():
    sections = set(re.findall(r"^## (\d+)\.", MATH, flags=re.M))
    for path in (ROOT / "src").rglob("*.py"):
        for words in re.findall(r"docs/math\.md sections? ([\d and,]+)", path.read_text()):
            assert set(re.findall(r"\d+", words)) <= sections, f"{path.name} cites section {words}"


def test_equation_numbers_are_unique_and_in_order():
    numbers = [tuple(map(int, tag.split("."))) for tag in TAGS]
    assert numbers == sorted(set(numbers))


def test_every_equation_the_text_refers_to_exists():
    assert set(re.findall(r"\((\d+\.\d+)\)", MATH)) <= set(TAGS)
