"""What README and docs say is true: examples run, links lead somewhere, cited equations and named tests exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MATH = (ROOT / "docs" / "math.md").read_text()
TAGS = re.findall(r"\\tag\{(\d+\.\d+)\}", MATH)


def test_every_module_opens_with_one_line_that_says_what_it_does():
    modules = sorted((ROOT / "src" / "dqo").rglob("*.py"))
    first = {str(path): (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0] for path in modules}
    assert len(first) > 100
    assert {path: line for path, line in first.items() if not 8 <= len(line) <= 120} == {}


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, flags=re.S))
def test_examples_of_plain_functions_run_and_the_rest_compiles(code):
    compile(code, "README.md", "exec")
    if "Trainer" not in code:
        exec(code, {})


def test_the_credit_example_prints_what_it_claims():
    import torch

    from dqo.core import cosine_kernel, leave_one_out

    claimed = re.search(r"# tensor\(\[([^\]]+)\], dtype=torch.float64\)", README).group(1)
    E = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    expected = torch.tensor([float(x) for x in claimed.split(",")], dtype=torch.float64)
    torch.testing.assert_close(leave_one_out(cosine_kernel(E)), expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", path.read_text()):
        assert (path.parent / target.split("#")[0]).exists(), target


def test_nothing_names_a_folder_of_somebody():
    folders = ("docs", "recipes", "runs", "experiments")
    files = [ROOT / "README.md", *(path for name in folders for path in (ROOT / name).rglob("*.*"))]
    texts = {path: path.read_text() for path in files if path.suffix in (".md", ".yaml", ".sh", ".py", ".txt")}
    assert len(texts) > 50
    named = re.compile(r"(?<![\w.~])/(?:home|root|work|Users|mnt)/\w")
    assert [str(path) for path, text in texts.items() if named.search(text)] == []


def test_tests_that_docs_name_exist():
    named, file = [], ""
    for page in ROOT.glob("docs/**/*.md"):
        for path, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?(?:\[[^`]*\])?`", page.read_text()):
            file = path or file
            named += [(file, name)] if path or name else []
    assert len(named) > 100
    for file, name in named:
        assert (ROOT / file).exists(), file
        assert (
            not name or f"def {name}(" in (ROOT / file).read_text() or f"class {name}" in (ROOT / file).read_text()
        ), f"{file}::{name}"


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
