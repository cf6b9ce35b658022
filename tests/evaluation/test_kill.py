"""kill -9 at arbitrary points of sampling: no finished line is lost or drawn again, and the end is the same."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("kill_sampling.py")


def test_killed_at_any_point_sampling_continues_where_it_was(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, str(SCRIPT), str(tmp_path / "killed")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    kills, kept = map(int, done.stdout.split()[-2:])
    assert kills >= 3
    assert kept > 0, "some line must have been there to lose"
    whole = (
        "import sys; sys.path.insert(0, sys.argv[1]); import kill_sampling as k; from pathlib import Path; "
        "k.sample(Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", whole, str(SCRIPT.parent), str(tmp_path / "whole")]
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=120)
    for file in ("groups.jsonl", "sampling.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
