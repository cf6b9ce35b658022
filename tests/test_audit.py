"""The audit: licences are judged by hand-picked examples, and an advisory service that cannot be asked is no pass."""

import json

import audit
import pytest


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("MIT", "permissive"), ("Apache-2.0", "permissive"), ("BSD License", "permissive"),
        ("MPL-2.0 AND MIT", "weak copyleft"),
        ("LGPL-2.1-or-later", "weak copyleft"), ("GNU Lesser General Public License v3 (LGPLv3)", "weak copyleft"),
        ("GPL-3.0-only", "copyleft"), ("GNU General Public License v2 (GPLv2)", "copyleft"), ("AGPL-3.0", "copyleft"),
        ("GPL-2.0-only OR MIT", "permissive"), ("unknown", "unknown"),
    ],
)  # fmt: skip
def test_a_licence_is_told_by_its_terms(text, kind):
    assert audit.verdict(text) == kind


def test_packages_are_found_through_others():
    installed, _ = audit.brought_along("dqo-llm", ("train",))
    assert {"torch", "trl", "transformers", "tokenizers"} <= installed, "tokenizers is required by transformers alone"
    assert "dqo-llm" not in installed
    assert "sacrebleu" not in installed, "of another extra"


def program(folder, answer):
    path = folder / "pip-audit"
    path.write_text(f"#!/bin/sh\ncat <<'E'\n{answer}\nE\n")
    path.chmod(0o755)
    return [str(path)]


@pytest.mark.parametrize(
    ("vulns", "status", "told"),
    [([], 0, "0 of 1 packages have a known one"), ([{"id": "X-1", "fix_versions": ["2"]}], 1, "a 1: X-1 (fixed in 2)")],
)
def test_what_the_service_knows_decides(tmp_path, capsys, vulns, status, told):
    answer = json.dumps({"dependencies": [{"name": "a", "version": "1", "vulns": vulns}]})
    assert audit.vulnerabilities(program(tmp_path, answer)) == status
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("answer", ["", "ConnectionError", "{}"])
def test_no_answer_is_said_and_is_no_pass(tmp_path, capsys, answer):
    assert audit.vulnerabilities(program(tmp_path, answer)) == 2
    assert audit.vulnerabilities([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().out.count("vulnerabilities: NOT checked, because pip-audit gave no answer") == 2
