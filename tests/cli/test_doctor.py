"""The diagnosis: pins it quotes, packages it finds, status it returns."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from dqo.cli import doctor
from dqo.cli import doctor as gpu

REQUIREMENTS = Path(__file__).parents[2] / "requirements-models.txt"


def test_quoted_pins_are_those_of_the_requirements_file():
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    assert lines == [doctor.POLICY_PACKAGE, doctor.ENCODER_PACKAGE, doctor.HELDOUT_PACKAGE]


def test_every_extra_is_looked_at_and_the_suite_s_packages_fit():
    found = {finding.what.split(" ")[0]: finding for finding in doctor._packages()}
    assert {"torch", "trl", "transformers", "sentence-transformers", "datasets", "matplotlib"} <= set(found)
    assert "pytest" not in found, "what only developers need is not the user's business"
    assert found["trl"].ok
    assert found["trl"].vital
    assert not found["matplotlib"].vital


def test_missing_and_old_packages_get_one_command():
    from packaging.specifiers import SpecifierSet

    absent = doctor._package("no-such-package", SpecifierSet(">=1"), "train")
    assert (absent.ok, absent.fix) == (False, "pip install -e '.[train]'")
    old = doctor._package("torch", SpecifierSet(">=99"), "")
    assert (old.ok, old.fix) == (False, "pip install 'torch>=99'")


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
    assert "No training on a GPU here; on CPUs everything runs." in told
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    first, *rest = gpu.look()
    assert "is built for CUDA 13.0, but finds no device that it can use" in first.what
    assert not any(finding.vital for finding in rest)


@pytest.mark.parametrize(("capability", "bf16"), [((9, 0), "bfloat16 in hardware"), ((7, 5), "no bfloat16: set dtype")])
def test_a_device_is_described_by_memory_and_precision(monkeypatch, capability, bf16):
    ones, cuda = torch.ones, torch.cuda
    monkeypatch.setattr(torch, "ones", lambda *size, device: ones(*size))
    monkeypatch.setattr(cuda, "mem_get_info", lambda index: (30 * 2**30, 80 * 2**30))
    monkeypatch.setattr(cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(cuda, "get_device_name", lambda index: "GPU X")
    found = gpu._device(1)
    assert found.ok
    assert found.what.startswith("device 1: GPU X, 30 of 80 GB free, compute capability ")
    assert bf16 in found.what


def test_a_device_that_fails_is_one_vital_finding(monkeypatch):
    def fail(*size, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "ones", fail)
    found = gpu._device(0)
    assert (found.ok, found.vital) == (False, True)
    assert "device 0 cannot be used (OutOfMemoryError: CUDA out of memory)" in found.what
