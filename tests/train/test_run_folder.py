"""A run is the same run however its path is written."""

import os
from pathlib import Path

import pytest

from dqo.errors import ModelError
from dqo.train.folder import model_source, run_chat_settings, run_of

PROMPT = "a sad cat"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "outputs" / "run"
    (folder / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    (folder / "checkpoints" / "final").mkdir()
    (folder / "config.yaml").write_text(f"task: cities\nsystem_prompt: {PROMPT}\n")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "link-to-final").symlink_to(folder / "checkpoints" / "final")
    (tmp_path / "owner" / "model").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("there", ["", "outputs", "outputs/run", "outputs/run/eval", "outputs/run/checkpoints",
                                   "outputs/run/checkpoints/final", "link", "link/checkpoints"])  # fmt: skip
@pytest.mark.parametrize("part", ["", "checkpoints", "checkpoints/final", "checkpoints/checkpoint-2"])
def test_every_way_to_write_a_path_means_the_same_run(run, tmp_path, monkeypatch, there, part):
    (run / "eval").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(here := tmp_path / there)
    loaded = run / "checkpoints" / "final" if part in ("", "checkpoints") else run / part
    relative = os.path.relpath(run / part)
    ways = [
        str(run / part), f"{run / part}/", relative, f"{relative}/", f"./{relative}", f"{relative}/.",
        f"~/outputs/run/{part}", str(tmp_path / "link" / part), f"{tmp_path}/link/../run/{part}",
    ]  # fmt: skip
    for way in ways:
        assert run_chat_settings(way).get("system_prompt") == PROMPT, (here, way)
        assert Path(model_source(way)).expanduser().samefile(loaded), (here, way)


def test_links_to_a_part_of_a_run_and_a_folder_of_checkpoints_elsewhere(run, tmp_path, monkeypatch):
    assert run_chat_settings(str(tmp_path / "link-to-final")).get("system_prompt") == PROMPT
    (run / "checkpoints").rename(tmp_path / "scratch")
    (run / "checkpoints").symlink_to(tmp_path / "scratch")
    assert run_chat_settings(str(run / "checkpoints" / "final")).get("system_prompt") == PROMPT
    monkeypatch.chdir(run / "checkpoints")
    monkeypatch.setenv("PWD", str(run / "checkpoints"))  # as a shell sets it after this `cd`
    assert run_chat_settings("final").get("system_prompt") == PROMPT
    assert Path(model_source(".")).samefile(tmp_path / "scratch" / "final")
    monkeypatch.setenv("PWD", "/elsewhere")
    assert run_chat_settings("final").get("system_prompt") is None, "nothing leads back from there"


def test_what_is_no_part_of_a_run_stays_what_it_is(run, tmp_path, monkeypatch):
    monkeypatch.chdir(run)
    (run / "eval" / "x").mkdir(parents=True)
    for name in ("owner/model", "", "HuggingFaceTB/SmolLM2-135M-Instruct", str(tmp_path / "owner" / "model"), "eval",
                 "eval/x", "x" * 5000, "a\0b", str(run.parent)):  # fmt: skip
        assert (run_of(name), model_source(name), run_chat_settings(name).get("system_prompt")) == (None, name, None)


def test_an_unfinished_run_is_refused_however_it_is_named(run, monkeypatch):
    (run / "checkpoints" / "final").rmdir()
    monkeypatch.chdir(run / "checkpoints")
    for name in (".", "..", str(run), str(run / "checkpoints")):
        with pytest.raises(ModelError, match="expected a finished run with checkpoints/final, got an unfinished one"):
            model_source(name)
    assert model_source("checkpoint-2") == "checkpoint-2"
