"""The model card of a run, from hand-written files of a run folder."""

import ast
import json
import re

import pytest
import yaml

from dqo.errors import DataError
from dqo.files.run import RunPaths
from dqo.settings.yaml import to_yaml
from dqo.train.card import add_evaluations, write_card
from dqo.train.recipe import load_recipe

RECIPE = """
task: cities
model: {model}
output_dir: {out}
alpha: 0.25
combine: gate
quality_threshold: 0.5
seed: 7
system_prompt: 'Say "it": {{shortly}}'
lora: {lora}
trainer: {{use_cpu: true, num_generations: 4, max_completion_length: 6, temperature: 0.9}}
"""
RESOLVED = {
    "prompts": "0123abcd", "device": "cpu", "device_name": "abacus", "processes": 2, "versions": {"dqo": "0.1.0"},
}  # fmt: skip
EVALUATED = {
    "n_prompts": 5, "n_samples": 10, "sampling": {"temperature": 0.7}, "encoder": "hashed", "task": "cities",
    "metrics": {"quality": {"mean": 0.5, "low": 0.25, "high": 0.75}, "vendi_1": None, "ours/own": None},
    "notes": ["a server said <b>no</b>"],
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A finished run as `write_card` finds it, its policy by name on a hub; no weights."""

    def made(model="somebody/small-model", lora="{}", steps=25):
        folder = RunPaths(tmp_path / "my run")
        folder.final.mkdir(parents=True)
        (folder.final / "chat_template.jinja").touch()
        (tmp_path / "recipe.yaml").write_text(RECIPE.format(model=model, out=folder.path, lora=lora))
        folder.config.write_text(to_yaml(load_recipe(tmp_path / "recipe.yaml").settings()))
        folder.resolved.write_text(to_yaml(RESOLVED))
        rows = [{"step": i, "quality": i / 10, "kl": None, "alpha": 0.25} for i in range(1, steps + 1)]
        folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
        write_card(folder, folder.final)
        return folder

    return made


def card_of(folder):
    return (folder.final / "README.md").read_text()


def test_the_head_is_what_a_hub_reads(run):
    _, head, text = card_of(run(lora="{r: 4}")).split("---\n", 2)
    assert yaml.safe_load(head) == {
        "base_model": "somebody/small-model", "library_name": "peft", "pipeline_tag": "text-generation",
        "tags": ["dqo", "trl", "grpo"],
    }  # fmt: skip
    assert text.startswith("\n# my run\n")
    assert "alpha 0.25, combined by `gate`" in text


def test_a_base_model_in_a_folder_is_no_base_model_of_a_hub(run, tmp_path):
    (tmp_path / "local").mkdir()
    assert "base_model:" not in card_of(run(model=str(tmp_path / "local")))


def test_the_curves_are_means_of_at_most_ten_stretches(run):
    text = card_of(run())
    assert "| up to step | Quality | Alpha |" in text, "KL was never measured"
    rows = [line for line in text.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == 9, "stretches of 3 of 25 steps, the last of one"
    assert rows[0] == "| 3 | 0.200 | 0.250 |"
    assert rows[-1] == "| 25 | 2.500 | 0.250 |"


def test_the_recipe_on_the_card_is_the_run_again(run, tmp_path):
    folder = run(lora="{r: 4}")
    recipe = re.search(r"```yaml\n(.*?)```", card_of(folder), flags=re.S)[1]
    (tmp_path / "again.yaml").write_text(recipe)
    again = load_recipe(tmp_path / "again.yaml", [f"output_dir={folder.path}"])
    assert again.settings() == yaml.safe_load(folder.config.read_text())
    assert "learning_rate" not in recipe, "a default"
    assert "output_dir" not in recipe


def test_the_code_of_the_card_asks_as_the_training_did(run):
    code = re.search(r"```python\n(.*?)```", card_of(run()), flags=re.S)[1]
    [asked] = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and node.func.id == "ask"]
    system, user = ast.literal_eval(asked.args[0])
    assert (system["content"], user["role"]) == ('Say "it": {shortly}', "user")
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in asked.keywords}
    assert (given["temperature"], given["max_new_tokens"], given["top_k"]) == (0.9, 6, 0)


def test_an_evaluation_takes_its_section_and_leaves_what_somebody_wrote(run):
    folder = run()
    card = folder.final / "README.md"
    card.write_text(card_of(folder).replace("## Limits\n", "## Thanks\n\nto all\n\n## Limits\n"))
    for document in (EVALUATED, EVALUATED | {"sampling": {"temperature": 1.5}}):
        add_evaluations(str(folder.path), folder.path / "eval", [document])
    text = card_of(folder)
    assert "None yet" not in text
    assert "temperature 0.7" not in text, "the newest evaluation replaces the one before"
    assert "| metric | temperature 1.5, 5 prompts × 10 responses |" in text
    assert "| Quality (`quality`) | 0.500 [0.250, 0.750] |" in text
    assert "| Vendi score (`vendi_1`) | – |" in text
    assert "- a server said &lt;b>no&lt;/b>\n" in text, "no markup from outside"
    assert text.endswith("this\nmodel too.\n")
    assert "## Thanks\n\nto all\n" in text


def test_evaluations_of_another_policy_or_elsewhere_leave_the_card_alone(run, tmp_path):
    folder = run()
    before = card_of(folder)
    (folder.checkpoints / "checkpoint-2").mkdir()
    add_evaluations(str(folder.checkpoints / "checkpoint-2"), folder.path / "eval", [EVALUATED])
    add_evaluations(str(folder.path), tmp_path / "elsewhere", [EVALUATED])
    add_evaluations("somebody/small-model", folder.path / "eval", [EVALUATED])
    assert card_of(folder) == before
    add_evaluations(str(folder.final), folder.path / "eval", [EVALUATED])
    assert card_of(folder) != before


def test_a_log_that_is_broken_is_named(run):
    folder = run()
    folder.metrics.write_text("nonsense\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 1"):
        write_card(folder, folder.final)
