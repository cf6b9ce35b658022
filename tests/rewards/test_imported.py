import sys
from pathlib import Path

import pytest

from dqo.errors import RecipeError
from dqo.rewards.loading import import_reward

FILE = Path(__file__).with_name("score_functions.py")


def test_by_module_and_by_file():
    assert import_reward("os.path.join")("a", "b") == "a/b"
    assert import_reward(f"{FILE}:by_length").__name__ == "by_length"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("by_length", "expected 'pkg.module.function' or 'path/to/file.py:function', got ValueError"),
        (f"{FILE}:", "expected 'pkg.module.function' or"),
        (str(FILE), "expected 'pkg.module.function' or"),
        ("no_such_package.rewards.fn", "got ModuleNotFoundError .*'no_such_package'"),
        ("missing.py:fn", "got FileNotFoundError"),
        (f"{FILE}:absent", "got AttributeError .*'absent'"),
        (f"{FILE}:NOT_A_FUNCTION", "expected a function, got a int"),
    ],
)
def test_mistakes_name_the_path(path, message):
    with pytest.raises(RecipeError, match=message) as caught:
        import_reward(path)
    assert f"reward {path!r}" in str(caught.value)


def test_a_module_that_fails_to_import(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(RecipeError, match="got ZeroDivisionError \\(division by zero\\)"):
        import_reward(f"{tmp_path}/broken.py:fn")


def test_a_module_of_the_current_folder_is_found_by_the_installed_script_too(tmp_path, monkeypatch):
    (tmp_path / "own_scores").mkdir()
    (tmp_path / "own_scores" / "length.py").write_text("def fn():\n    from own_helper import ONE\n    return ONE\n")
    (tmp_path / "own_helper.py").write_text("ONE = 1\n")
    (tmp_path / "json.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])  # the script `dqo` has no "" there
    for name in ("own_scores", "own_scores.length", "own_helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    function = import_reward("own_scores.length.fn")
    assert function() == 1, "what it imports when called is found as well"
    assert sys.path[-1] == str(tmp_path), "last, so that json.py there hides nothing"
    import_reward("own_scores.length.fn")
    assert sys.path.count(str(tmp_path)) == 1


def test_a_file_with_dataclasses(tmp_path):
    source = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    (tmp_path / "graded.py").write_text(
        source + "@dataclass\nclass Grade:\n    value: float\ndef fn(): return Grade(1.0).value\n"
    )
    assert import_reward(f"{tmp_path}/graded.py:fn")() == 1.0
