"""Only a failure to write our own files is told as one; connections, time-outs and bugs keep their traceback."""

import errno
import json
import resource
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from dqo.cli import show
from dqo.cli.main import main
from dqo.errors import DataError
from dqo.files.jsonio import writing

HEADER = "Error while deserializing header: invalid header"
FULL_FILE = "Error while serializing: I/O error: File too large (os error 27)"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 171072 vs 170960"),  # a full tmpfs
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        SafetensorError(FULL_FILE),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.ENOSPC, "No space left on device", "{here}/run/a"),
    ],
)
def test_every_way_that_writers_report_a_full_disk_is_told(tmp_path, error):
    if getattr(error, "filename", None):
        error.filename = error.filename.format(here=tmp_path)
    told = pytest.raises(DataError, match=r"run: writing failed \(.*\); free space, then wait\.$")
    with told, writing(tmp_path / "run", "wait"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError("timed out"),
        OSError("We couldn't connect to 'https://huggingface.co'"),
        OSError(errno.EMFILE, "Too many open files", "/elsewhere/socket"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/elsewhere/prompts.jsonl"),
        RuntimeError("PytorchStreamReader failed reading zip archive"),
        SafetensorError(HEADER),
        RuntimeError("a bug of ours"),
        ValueError("a bug of ours"),
    ],
)
def test_any_other_error_stays_what_it_is(tmp_path, monkeypatch, error):
    with pytest.raises(type(error)) as caught, writing(tmp_path / "run"):
        raise error
    assert caught.value is error

    def fails(args):
        raise error

    monkeypatch.setattr(show, "run_compare", fails)
    with pytest.raises(type(error)) as caught:
        main(["compare", "a", "b", "--out", str(tmp_path)])
    assert caught.value is error


def test_a_place_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    told = pytest.raises(DataError, match=r"b: writing failed \(Not a directory\); make the place writable, or choose")
    with told, writing(tmp_path / "file" / "a" / "b"):
        (tmp_path / "file" / "a" / "b").mkdir(parents=True)


def test_a_disk_that_is_full_is_one_sentence_of_a_command(tmp_path):
    """A real failure: the system lets the process write no longer file."""
    groups = tmp_path / "groups.jsonl"
    row = {"id": "a", "prompt": "p", "responses": ["red house", "old tree"], "finish": ["eos", "eos"]}
    groups.write_text(json.dumps(row) + "\n")
    command = ["-m", "dqo", "eval", "--responses", str(groups), "--encoder", "hashed", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("dqo: error: ")]
    assert "Traceback" not in done.stderr
    assert f"dqo: error: {tmp_path / 'out'}" in line
    assert ": writing failed (File too large); free space." in line


TALKATIVE = """
import sys
from dqo.cli import show
from dqo.cli.main import main
show.run_compare = lambda args: [print("a line") for _ in range(100_000)]
sys.exit(main(["compare", "a", "b", "--out", "c"]))
"""


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -c '{TALKATIVE}' | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout.split("\n")[:2], done.stderr) == (["a line", "141"], "")
