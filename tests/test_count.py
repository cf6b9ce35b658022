"""The counting script on a tree of three files whose figures were counted by hand."""

import pytest

SOURCES = {
    "loose.py": '''"""A module
of two lines."""

# why
import dqo.core.volume


def check_size(n):
    """Says no."""
    if n < 1:
        raise ValueError(
            f"expected 1 or more, got {n}"
        )


def double(n):  # not a whole line
    assert n
    return 2 * n
''',
    "core/__init__.py": "from dqo.core.volume import A\n",
    "core/volume.py": "A = '''\ntext\n'''\n",
}


@pytest.fixture
def count(request, monkeypatch):
    monkeypatch.syspath_prepend(request.config.rootpath / "benchmarks")
    import count

    return count


def test_figures_are_those_counted_by_hand(count):
    found = count.figures(SOURCES)
    assert (found["files"], found["lines"], found["code lines"]) == (3, 22, 9 + 1 + 3)
    assert found["statements"] == (1 + 1 + 4 + 3) + 1 + 1
    assert (found["docstrings, % of lines"], found["comment lines, % of lines"]) == (13.6, 4.5)  # 3 and 1 of 22
    assert found["checking code, % of code lines"] == 46.2  # 5 lines of check_size and the assert, of 13
    assert (found["lines of the longest function"], found["its place"]) == (6, "loose.py:check_size")
    assert (found["loose modules at the top"], found["code lines beside the paper"]) == (1, 4)
    assert found["files under 100 lines with one importer"] == 0, "volume.py has two, loose.py none"


def test_a_missed_budget_is_named(count):
    missed = count.missed(count.figures(SOURCES))
    assert [sentence.split(":")[0] for sentence in missed] == [
        "rooms beside the paper not found", "loose modules at the top", "checking code, % of code lines"
    ]  # fmt: skip
