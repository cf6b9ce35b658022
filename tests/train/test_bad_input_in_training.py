"""Bad input to `dqo train` from end to end: status 2 and one line, or a run that goes well in spite of odd input."""

import json

import pytest

from dqo.cli.main import main

REWARDS = """
def nan(prompts, completions, **columns):
    return [0.5] * (len(completions) - 1) + [float("nan")]


def infinite(prompts, completions, **columns):
    return [float("inf")] * len(completions)


def huge(prompts, completions, **columns):
    return [10**400] * len(completions)


def short(prompts, completions, **columns):
    return [1.0]


def text(prompts, completions, **columns):
    return ["good"] * len(completions)
"""


@pytest.fixture
def refused(capfd):
    """Runs `dqo train` and returns the one line it leaves on stderr with status 2."""

    def train(*args):
        capfd.readouterr()
        assert main(["train", *map(str, args)]) == 2
        told = capfd.readouterr().err
        assert "Traceback" not in told
        (line,) = [line for line in told.splitlines() if line.startswith("dqo: error: ")]
        return line

    return train


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected at least one JSON line, got an empty file."),
        ('{"prompt": "the dog"}\n', "expected at least 2 prompts to train on"),
        (
            '{"prompt": "the dog"}\n{"prompt": "' + "dog " * 300 + '"}\n',
            "expected at most 256 tokens with the response",
        ),
        ('{"prompt": "\\ud800"}\n', 'line 1: expected one JSON object, got \'{"prompt": '),
        ('{"prompt": "a", "meta": {"x": "\\ud800"}}\n', 'line 1: expected one JSON object, got \'{"prompt": '),
    ],
)
def test_data_that_cannot_be_trained_on(own_recipe, prompt_file, refused, content, message):
    recipe = own_recipe()
    prompt_file.write_text(content)
    assert message in refused(recipe)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.num_generations=1", "trainer.per_device_train_batch_size=4"], "at least 2 generations"),
        (["trainer.num_generations=3"], "generation_batch_size (8) must be divisible by num_generations (3)"),
        (["seed=-1"], "`seed` must be at least 0, got -1"),
        (["alpha=1e999"], "`alpha` must be a finite number"),
        (["model=../nowhere"], "to be a folder written by save_pretrained, or a model that the hub serves"),
        (["trainer.lr_scheduler_type=nonsense"], "nonsense is not a valid SchedulerType"),
    ],
)
def test_settings_that_cannot_be_trained_with(own_recipe, refused, overrides, message):
    assert message in refused(own_recipe(), *overrides)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: [path.unlink() for path in f.glob("tokenizer*")], "expected a tokenizer from"),
        (lambda f: (f / "chat_template.jinja").write_text("{% for"), "expected the chat template of"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), "in safetensors format"),
    ],
)
def test_models_that_cannot_be_trained(own_recipe, tiny_policy_folder, refused, spoil, message):
    recipe = own_recipe()
    spoil(tiny_policy_folder)
    assert message in refused(recipe)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reward", "message"),
    [("nan", "got nan"), ("infinite", "got inf"), ("huge", "got 1000"), ("short", "got 1;"), ("text", "got 'good'")],
)
def test_rewards_that_are_no_finite_numbers_stop_the_run(own_recipe, tmp_path, refused, reward, message):
    recipe = own_recipe(reward=reward)
    (tmp_path / "reward.py").write_text(REWARDS)
    line = refused(recipe)
    assert f"reward function '{reward}'" in line
    assert message in line


@pytest.mark.slow
def test_equal_prompts_odd_text_and_a_bare_tokenizer_are_trained_on(
    own_recipe, tiny_policy_folder, prompt_file, tmp_path
):
    recipe = own_recipe()
    odd = "the \u202e\u0301\x00\U0001f469\u200d\U0001f4bb\u2028 dog"
    prompt_file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("the dog", "the dog", odd, odd)))
    (tiny_policy_folder / "chat_template.jinja").unlink()
    edit(tiny_policy_folder / "tokenizer_config.json", pad_token=None)
    assert main(["train", str(recipe)]) == 0
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert all(step["loss"] is not None for step in steps)
