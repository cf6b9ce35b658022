"""`dqo schema`: editors complete recipes by it, and docs/reference/settings.md is written from it."""

import json
from pathlib import Path

import pytest
import yaml

from dqo.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def printed(capsys):
    def run(what):
        assert main(["schema", what]) == 0
        return capsys.readouterr().out

    return run


def test_the_settings_reference_is_current(printed):
    assert (ROOT / "docs" / "reference" / "settings.md").read_text() == printed("reference"), (
        "dqo schema reference > docs/reference/settings.md"
    )


def test_the_schema_of_a_recipe_knows_every_key_of_the_shipped_recipes(printed):
    schema = json.loads(printed("recipe"))
    parts = {name: schema["$defs"][name]["properties"] for name in ("Trainer", "LoraSettings")}
    for path in (ROOT / "recipes").glob("*.yaml"):
        recipe = yaml.safe_load(path.read_text())
        assert recipe.keys() <= schema["properties"].keys(), path
        assert recipe.get("trainer", {}).keys() <= parts["Trainer"].keys(), path
        assert recipe.get("lora", {}).keys() <= parts["LoraSettings"].keys(), path
    assert parts["Trainer"]["learning_rate"]["exclusiveMinimum"] == 0
    assert "normalize_advantages" in parts["Trainer"], "of RLOO alone"
    assert schema["additionalProperties"] is False
    assert "entropy" in schema["properties"]["diversity"]["enum"]


def test_the_schema_of_a_sweep_has_its_keys(printed):
    assert {"base", "arms", "alphas", "seeds", "evaluation"} <= json.loads(printed("sweep"))["properties"].keys()
