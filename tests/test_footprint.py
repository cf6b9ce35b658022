"""The footprint of a prompt: files are counted by what is being done, and a helper that is never called is not."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_a_prompt_passes_the_mathematics_in_the_step_and_the_recipe_before(request):
    script = request.config.rootpath / "benchmarks" / "footprint.py"
    done = subprocess.run([sys.executable, script, "--list"], capture_output=True, text=True, check=True)
    titles = ("start-up", "first step", "one prompt", "imported")
    counts, files, title = {}, {}, ""
    for line in done.stdout.splitlines():
        if line.startswith(titles) and line.endswith(" files"):
            title = next(name for name in titles if line.startswith(name))
            counts[title], files[title] = int(line.split()[-2]), set()
        elif line.startswith("    "):
            files[title].add(line.strip())
    assert counts == {name: len(those) for name, those in files.items()}
    assert {"core/kernels.py", "core/advantage.py"} <= files["first step"]
    assert "cli/main.py" in files["start-up"] - files["first step"]
    assert files["one prompt"] == files["start-up"] | files["first step"]
    assert files["one prompt"] < files["imported"], "no file is called that is not imported, and some are not called"
