"""The diagnosis: pins it quotes, packages it finds, status it returns."""

from pathlib import Path

import pytest

from dqo.cli import doctor

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
    assert (absent.ok, absent.mend) == (False, "pip install 'dqo[train]'")
    old = doctor._package("torch", SpecifierSet(">=99"), "")
    assert (old.ok, old.mend) == (False, "pip install 'torch>=99'")


@pytest.mark.parametrize(("vital", "status"), [(True, 1), (False, 0)])
def test_status_follows_the_vital_findings(monkeypatch, capsys, vital, status):
    found = [doctor.Finding(True, "one"), doctor.Finding(False, "two", "pip install two", vital)]
    monkeypatch.setattr(doctor, "diagnose", lambda: iter(found))
    assert doctor.run(None) == status
    assert "-> pip install two" in capsys.readouterr().out
