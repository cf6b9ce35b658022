"""The wheel and the sdist: what is in them, and that an environment without any dependency can start `dqo`."""

import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling, the build backend, is not installed"),
]


def run(*command, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)


def build(source: Path, kind: str, out: Path) -> Path:
    """The wheel or the sdist of a source folder."""
    done = run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", out, cwd=source)
    assert done.returncode == 0, done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    return build(ROOT, "wheel", folder / "wheel"), build(ROOT, "sdist", folder / "sdist")


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_the_package_and_nothing_else(built):
    held = {name for name in names(built[0]) if ".dist-info/" not in name}
    tracked = run("git", "ls-files", "src/dqo", cwd=ROOT)
    if tracked.returncode == 0:
        there = [name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()]
        assert len(there) > 100
        assert {name.removeprefix("src/") for name in there} <= held
    files = ("py.typed", "evaluation/metrics.yaml", "report/assets/page.html.j2", "report/assets/vendor/d3.min.js")
    assert {f"dqo/{name}" for name in files} <= held
    assert {name.split("/")[0] for name in held} == {"dqo"}
    assert not any("__pycache__" in name for name in held)


def test_both_files_have_the_name_that_is_free_on_the_index(built):
    # `dqo` there is another project.
    assert [path.name.split("-")[0] for path in built] == ["dqo_llm", "dqo_llm"]


def test_a_wheel_of_the_sdist_is_the_wheel(built, tmp_path):
    with tarfile.open(built[1]) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    assert names(build(source, "wheel", tmp_path / "again")) == names(built[0])


def test_an_environment_without_dependencies_starts_and_says_what_it_lacks(built, tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    done = run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", built[0])
    assert done.returncode == 0, done.stderr
    dqo = python.with_name("dqo")
    shown = run(dqo, "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "Post-train language models" in shown.stdout
    version = run(python, "-c", "import dqo; print(dqo.__version__, dqo.__file__)", cwd=tmp_path)
    assert version.stdout.split()[0] in built[0].name, version.stderr
    assert str(tmp_path) in version.stdout, "the installed package, not the source"
    lacking = run(dqo, "train", "recipe.yaml", cwd=tmp_path)
    assert lacking.returncode == 2
    assert re.search(r"`dqo train` needs the package '\w+'; run `pip install -e '\.\[train\]'`\.", lacking.stderr)
    assert "Traceback" not in lacking.stderr
