"""A damaged checkpoint is told from a whole one, whatever happened to it, and the one before it is used."""

import json
import shutil

import pytest

from dqo.files.run import STATE, damage, list_files, newest_whole

FILES = {"model.safetensors": b"weights" * 100, "rng_state.pth": b"random", "critic/critic.safetensors": b"critic"}


def write(folder, listed=True):
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    memory = {"dqo": {"files": list_files(folder)}} if listed else {}
    (folder / STATE).write_text(json.dumps({"global_step": 1, "stateful_callbacks": memory}))
    return folder


def test_a_whole_checkpoint_has_no_damage(tmp_path):
    assert damage(write(tmp_path)) is None
    assert set(json.loads((tmp_path / STATE).read_text())["stateful_callbacks"]["dqo"]["files"]) == set(FILES)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model.safetensors", b"weights" * 99, "model.safetensors has 693 of 700 bytes"),
        ("rng_state.pth", b"", "rng_state.pth has 0 of 6 bytes"),
        ("critic/critic.safetensors", None, "critic/critic.safetensors is missing"),
        (STATE, None, f"{STATE} is missing, so it was not written to its end"),
        (STATE, b'{"global_st', f"{STATE} cannot be read"),
        (STATE, b"\x00" * 50, f"{STATE} cannot be read"),
        (STATE, b"[1]", f"{STATE} cannot be read"),
    ],
)
def test_every_damage_is_named(tmp_path, name, content, reason):
    write(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    assert damage(tmp_path) == reason


def test_a_checkpoint_without_a_list_is_passed_over(tmp_path):
    write(tmp_path, listed=False)
    assert damage(tmp_path) == f"{STATE} cannot be read"


def test_the_newest_whole_one_is_used_and_the_others_named(tmp_path):
    assert newest_whole(tmp_path / "nowhere") == newest_whole(tmp_path)
    for step in (9, 10, 100):
        write(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-final").mkdir()
    assert newest_whole(tmp_path).newest.name == "checkpoint-100", "by number, not by name"
    (tmp_path / "checkpoint-100" / STATE).unlink()
    shutil.rmtree(tmp_path / "checkpoint-10" / "critic")
    search = newest_whole(tmp_path)
    assert search.newest == tmp_path / "checkpoint-9"
    assert [(path.name, reason.split()[0]) for path, reason in search.skipped] == [
        ("checkpoint-100", STATE), ("checkpoint-10", "critic/critic.safetensors"),
    ]  # fmt: skip
    assert [path.name for path in search.damaged] == ["checkpoint-10"], "the other was not written to its end"
