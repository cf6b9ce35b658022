"""What the README says is true: its tree is the disk's, its examples run, nothing in it names a machine."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def tree_paths():
    """Paths of the README's tree, one a line, folders ending in a slash."""
    (block,) = re.findall(r"## Where things are\n\n```\n(.*?)```", README, flags=re.S)
    stack, paths = [], {}
    for line in block.splitlines():
        indent = len(line) - len(line.lstrip())
        name, _, text = line.strip().partition(" ")
        stack = [*stack[: indent // 2], name]
        paths["".join(stack)] = text.strip()
    return paths


def test_the_tree_is_the_disk():
    listed = {path for path in tree_paths() if not path.endswith("/")}
    package = {str(p.relative_to(ROOT)) for p in (ROOT / "src" / "dqo").rglob("*.py")}
    folders = [ROOT / name for name in ("recipes", "benchmarks", "runs", "docs")]
    within = [path for folder in ("recipes", "runs") for path in (ROOT / folder).iterdir()]
    folders += [path for path in within if path.is_dir() and path.name not in ("__pycache__", "out")]
    others = {str(p.relative_to(ROOT)) for folder in folders for p in folder.glob("*.*")}
    top = {p.name for p in ROOT.glob("*") if p.is_file() and not p.name.startswith(".")}
    assert listed == package | others | top


def test_every_line_of_the_tree_says_what_it_is():
    assert [path for path, text in tree_paths().items() if len(text) < 8] == []


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


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", path.read_text()):
        assert (path.parent / target.split("#")[0]).exists(), target


def test_nothing_names_a_folder_of_somebody():
    files = [ROOT / "README.md", *(p for name in ("docs", "recipes", "runs") for p in (ROOT / name).rglob("*.*"))]
    texts = {path: path.read_text() for path in files if path.suffix in (".md", ".yaml", ".sh", ".py", ".txt")}
    assert len(texts) > 50
    named = re.compile(r"(?<![\w.~])/(?:home|root|work|Users|mnt)/\w")
    assert [str(path) for path, text in texts.items() if named.search(text)] == []
