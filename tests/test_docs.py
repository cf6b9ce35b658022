"""What README and docs say is true: examples run, links lead somewhere, cited equations and named tests exist."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml

from dqo.cli.main import build_parser
from dqo.train.recipe import load_recipe, recipe_schema

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
MATH = (ROOT / "docs" / "math.md").read_text()
TAGS = re.findall(r"\\tag\{(\d+\.\d+)\}", MATH)


def test_every_module_opens_with_one_line_that_says_what_it_does():
    modules = sorted((ROOT / "src" / "dqo").rglob("*.py"))
    first = {str(path): (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0] for path in modules}
    assert len(first) > 100
    assert {path: line for path, line in first.items() if not 8 <= len(line) <= 120} == {}


def blocks(*languages):
    """Code blocks of README and docs in these languages; the pages that are followed step by step have a test each."""
    pages = ("guides/adding.md", "guides/own_trainer.md", "guides/lm_eval_inspect.md", "start/tutorial.md")
    followed = [ROOT / "docs" / page for page in pages]
    return [
        pytest.param(code, id=f"{page.stem}-{number}")
        for page in PAGES
        if page not in followed
        for number, (language, code) in enumerate(
            re.findall(r"^```(\w+)[^\n]*\n(.*?)^```", page.read_text(), re.S | re.M)
        )
        if language in languages
    ]


@pytest.mark.parametrize("code", blocks("python"))
def test_examples_run_and_give_what_they_say(code, tmp_path, monkeypatch):
    """Those that would train, with names that stand for the reader's own, are compiled only."""
    monkeypatch.chdir(tmp_path)
    compile(code, "example", "exec")
    if "Trainer(" in code:
        return
    names = {}
    exec(code, names)
    for expression, said in re.findall(r"^(\S.*?)  # (\[.*\])$", code, flags=re.M):
        assert eval(expression, names).tolist() == pytest.approx(ast.literal_eval(said), abs=5e-5)


def commands(code):
    """Commands of a shell block as words: $NAME filled in, redirections and `accelerate launch` left out."""
    values = {}
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(re.sub(r"\$(\w+)", lambda found: values.get(found[1], found[0]), line), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            name, _, value = words.pop(0).partition("=")
            values[name] = value
        words = words[: words.index(">")] if ">" in words else words
        if words:
            yield words[words.index("-m") + 1 :] if words[:1] == ["accelerate"] else words


@pytest.mark.parametrize("code", blocks("bash"))
def test_commands_parse_and_name_files_settings_and_targets_that_exist(code):
    for words in commands(code):
        if words[0] == "dqo":
            args = build_parser().parse_args(words[1:])
            if "settings" in args and args.recipe.startswith("recipes/"):
                load_recipe(ROOT / args.recipe, args.settings)
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert all(f"\n{target}:" in (ROOT / "Makefile").read_text() for target in targets), targets
        for word in words:
            shipped = word.startswith(("recipes/", "runs/", "experiments/", "benchmarks/", "tests/"))
            assert not shipped or "/out" in word or (ROOT / word.split("::")[0]).exists() or "..." in word, word


@pytest.mark.parametrize("code", blocks("yaml"))
def test_settings_of_the_examples_are_settings_of_a_recipe(code):
    schema = recipe_schema()
    given = yaml.safe_load(code)
    assert given.keys() <= schema["properties"].keys()
    assert given.get("trainer", {}).keys() <= schema["$defs"]["Trainer"]["properties"].keys()


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


def test_the_page_for_trainers_of_ones_own_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/guides/own_trainer.md").read_text(), flags=re.S)
    names: dict = {}
    for code in blocks:
        if "__all__" in code:  # a package of a user
            compile(code, "own_trainer.md", "exec")
        else:
            exec(code, names)
    assert len(blocks) > 4
    assert names["scored"].shaped[3] == 0, "wrong, and kept out by the gate"
    assert names["shaped_rows"].isfinite().all()
