"""kill -9 at seeded random points of sampling: no finished line is lost or drawn again, and the end is the same."""

import os
import sys
from pathlib import Path

import forking
import pytest

SCRIPT = Path(__file__).with_name("kill_sampling.py")


def run(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    done = forking.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run that nobody kills leaves."""
    folder = tmp_path_factory.mktemp("whole")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import kill_sampling as k; from pathlib import Path; "
        "k.sample(Path(sys.argv[2]))"
    )
    run("-c", code, str(SCRIPT.parent), str(folder))
    return folder


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_killed_at_any_point_sampling_continues_where_it_was(tmp_path, whole, seed):
    kills, kept = map(int, run(str(SCRIPT), str(tmp_path / "killed"), str(seed)).split()[-2:])
    print(f"{kills} kills, {kept} lines at the last of them")
    assert kills >= 3
    assert kept > 0, "some line must have been there to lose"
    for file in ("groups.jsonl", "sampling.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (whole / file).read_bytes()
