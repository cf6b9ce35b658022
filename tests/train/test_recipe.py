"""Recipes: what YAML means, what is refused and with which words, and that a resolved recipe is a recipe."""

from dataclasses import fields

import pytest
import yaml

from dqo.errors import DQOError, RecipeError
from dqo.files.records import write_text
from dqo.settings.checking import check
from dqo.settings.yaml import parse_yaml, to_yaml
from dqo.train.recipe import CONFIGS, load_recipe, recipe_model

BASE = "task: countdown\noutput_dir: out\n"


@pytest.fixture
def recipe_file(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("2E3", 2000.0), ("-1.5e-3", -1.5e-3), (".5", 0.5), ("3.", 3.0), ("7", 7), ("-0", 0),
        ("no", "no"), ("on", "on"), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("12:30", "12:30"), ("2026-01-02", "2026-01-02"), ("1e", "1e"), ("1.2.3", "1.2.3"), (".inf", float("inf")),
        ("[1e-5, no]", [1e-5, "no"]), ('"1e-5"', "1e-5"),
    ],
)  # fmt: skip
def test_scalars_mean_what_they_look_like(text, value):
    read = parse_yaml(text, "here")
    assert read == value
    assert type(read) is type(value)


def test_small_numbers_reach_the_trainer_as_numbers(recipe_file):
    path = recipe_file(BASE + "trainer:\n  learning_rate: 1e-5\n")
    assert load_recipe(path).config.learning_rate == 1e-5
    assert load_recipe(path, ["trainer.learning_rate=3e-6"]).config.learning_rate == 3e-6


def test_sections_land_in_their_places(recipe_file):
    text = "data: {path: own.jsonl}\ntask_options: {seed: 3}\nalpha: 0.5\nseed: 7\nheldout_encoder: hashed\n"
    recipe = load_recipe(recipe_file(BASE + text), ["task_options.numbers=5", "trainer.max_steps=4", "alpha=0.25"])
    assert recipe.data == {"path": "own.jsonl"}
    assert recipe.task_options == {"seed": 3, "numbers": 5}
    assert (recipe.config.alpha, recipe.config.seed, recipe.config.max_steps) == (0.25, 7, 4)
    assert recipe.heldout_encoder == "hashed"
    assert recipe.config.output_dir.endswith("checkpoints")


@pytest.mark.parametrize("empty", ["{}", "null", ""])
def test_an_empty_section_takes_back_what_the_file_has(recipe_file, empty):
    path = recipe_file(BASE + "lora: {r: 4}\ntask_options: {seed: 3}\ndata: {path: own.jsonl}\nalpha: 0.5\n")
    overrides = [f"{section}={empty}" for section in ("lora", "task_options", "data")]
    recipe = load_recipe(path, overrides)
    assert (recipe.lora, recipe.task_options, recipe.data) == ({}, {}, {})
    assert recipe.config.alpha == 0.5, "other settings stay"
    assert load_recipe(path, ["lora={r: 8}"]).lora == {"r": 8}
    assert load_recipe(path, ["lora.alpha=8"]).lora == {"r": 4, "alpha": 8}
    assert load_recipe(path, [f"lora={empty}", "lora.alpha=8"]).lora == {"alpha": 8}, "the order counts"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("alhpa=1", r"override 'alhpa=1': expected a known setting, got 'alhpa'; did you mean 'alpha'\?"),
        ("learning_rate=1e-5", r"got 'learning_rate'; did you mean 'trainer.learning_rate'\?"),
        ("trainer.alpha=1", r"got 'trainer.alpha'; did you mean 'alpha'\?"),
        ("trainer.lerning_rate=1", r"did you mean 'trainer.learning_rate'\?"),
        ("zzzzzz=1", "got 'zzzzzz'; choose one of .*, or remove it"),
        ("alpha", "override 'alpha': expected key=value"),
        ("alpha=true", "`alpha` must be a number or auto, got True"),
        ("alpha=-1", "`alpha` must be at least 0 or auto, got -1"),
        ("alpha=foo", "`alpha` must be a number or auto, got 'foo'"),
        ("alpha=[1", "override 'alpha=\\[1', line 1: expected valid YAML"),
        ("sigma=wide", "`sigma` must be a number, got 'wide'"),
        ("trainer.max_steps=1.5", "`trainer.max_steps` must be a whole number or -1, got 1.5"),
        ("trainer.bf16=maybe", "must be true or false, got 'maybe'"),
        ("trainer.output_dir=x", "`trainer.output_dir` has no place here; set `output_dir`"),
        ("trainer.seed=1", "set `seed` at the top level"),
        ("trainer.eval_strategy=steps", "evaluate it with `dqo eval`"),
        ("trainer=3", "`trainer` must be a mapping of settings, got 3"),
        ("dtype=bf16", "`dtype` must be .*bfloat16.*, got 'bf16'"),
        (
            "trainer.normalize_advantages=true",
            "`trainer.normalize_advantages` has no place here; it belongs to algorithm rloo, remove it",
        ),
        ("algorithm=dpo", "`algorithm` must be one of grpo, rloo, ppo .*, got 'dpo'"),
        ("seed=-1", "`seed` must be at least 0, got -1"),
        ("trainer.temperature=0", "`trainer.temperature` must be above 0, got 0"),
        ("trainer.beta=-5", "`trainer.beta` must be at least 0, got -5"),
        ("trainer.top_p=0", "`trainer.top_p` must be above 0, got 0"),
        ("trainer.min_p=2", "`trainer.min_p` must be at most 1, got 2"),
        ("trainer.learning_rate=.inf", "`trainer.learning_rate` must be a finite number, got inf"),
        ("trainer.learning_rate=true", "`trainer.learning_rate` must be a number, got True"),
        ("trainer.max_steps=0", "`trainer.max_steps` must be above 0 or -1, got 0"),
        (
            "trainer.importance_sampling_level=sequnce",
            "must be one of token, sequence .did you mean 'sequence'.., got 'sequnce'",
        ),
        ("trainer.num_generations=null", "`trainer.num_generations` must be a whole number, got None"),
        ("lora.r=0", "`lora.r` must be at least 1, got 0"),
        ("data.pth=x", "got 'data.pth'; did you mean 'data.path'"),
    ],
)
def test_bad_override_is_refused_in_a_sentence(recipe_file, override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe_file(BASE), [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("heldout_encoder=all-MiniLM-L6-v2", "expected another encoder than `encoder`, .* which are the same; choose"),
        (
            "heldout_encoder=sentence-transformers/all-MiniLM-L6-v2",
            "got 'sentence-transformers/all-MiniLM-L6-v2' beside 'all-MiniLM-L6-v2', which are the same",
        ),
        ("rewards=[{reward: quality, wieght: 2}]", "rewards, entry 1: quality has no options, got wieght; remove them"),
    ],
)
def test_what_only_the_host_s_settings_show_is_refused_too(recipe_file, override, message):
    recipe = load_recipe(recipe_file(BASE), [override])
    with pytest.raises(DQOError, match=message):
        _ = recipe.config


@pytest.mark.parametrize("heldout", ["policy", "policy:some/model"])
def test_the_run_s_own_start_is_no_second_judge_of_itself(heldout, recipe_file):
    _ = load_recipe(recipe_file(BASE), ["encoder=hashed", f"heldout_encoder={heldout}"]).config
    overrides = ["model=some/model", "encoder=policy", f"heldout_encoder={heldout}"]
    with pytest.raises(RecipeError, match="heldout_encoder: expected another encoder"):
        _ = load_recipe(recipe_file(BASE), overrides).config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE + "alhpa: 1\n", r"recipe.yaml: expected a known setting, got 'alhpa'; did you mean 'alpha'\?"),
        (BASE + "alpha: 1\nalpha: 2\n", "line 4: .* the key 'alpha' comes twice"),
        (BASE + "trainer:\n  beta: 0.0\n  beta: 0.1\n", "line 5: .* the key 'beta' comes twice"),
        (BASE + "alpha: [1\n", "line 4: expected valid YAML"),
        ("- a\n", "expected `key: value` lines, got a list"),
        ("[a]: 1\n", "line 1: .* a key must be text, got 'a sequence'"),
        ("task: countdown\n", "expected the setting `output_dir`, got none"),
        ("", "yaml: expected the settings `task` and `output_dir`, got none; add a line `task: ...` and a line `outp"),
    ],
    ids=lambda value: value[:40],
)
def test_bad_file_is_refused_in_a_sentence(recipe_file, text, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe_file(text))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"absent.yaml: expected a readable recipe, got No such file"):
        load_recipe(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.num_generations=5"], r"TRL refuses num_generations=5: generation_batch_size \(8\) must be"),
        (["trainer.num_generations=1", "trainer.beta=0.5", "alpha=0"],
         "^trainer: TRL refuses num_generations=1, beta=0.5: GRPO requires at least 2 .* minimum required; change"),
        (["trainer.lr_scheduler_type=lineer"], "TRL refuses lr_scheduler_type='lineer': .*lineer"),
        (["kernel=gaussian"], "bandwidth `sigma`"),
        (["trainer.num_generations=2"], "num_generations of at least 3, got 2"),
    ],
)  # fmt: skip
def test_settings_that_cannot_run_are_refused(recipe_file, overrides, message):
    recipe = load_recipe(recipe_file(BASE), overrides)
    with pytest.raises(DQOError, match=message):
        _ = recipe.config


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "ppo"])
@pytest.mark.parametrize("checkpointing", ["true", "false"])
def test_saved_settings_are_a_recipe_of_the_same_run(recipe_file, tmp_path, algorithm, checkpointing):
    overrides = [f"algorithm={algorithm}", "trainer.gradient_accumulation_steps=3",
                 "alpha=0.125", f"trainer.gradient_checkpointing={checkpointing}", "task_options.seed=5"]  # fmt: skip
    recipe = load_recipe(recipe_file(BASE), overrides)
    write_text(tmp_path / "config.yaml", to_yaml(recipe.settings()))
    again = load_recipe(tmp_path / "config.yaml")
    assert again.settings() == recipe.settings()
    assert again.config.to_dict() == recipe.config.to_dict()
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (written["alpha"], written["ridge"], written["trainer"]["gradient_accumulation_steps"]) == (0.125, 1.0, 3)


def test_saved_settings_do_not_depend_on_the_machine(recipe_file, monkeypatch, tmp_path):
    """A laptop, a CPU with bf16 instructions and a launcher of four processes write one and the same file."""
    from dqo.integrations.trl import config

    given = ["data.path=~/prompts.jsonl", "encoder=policy", "trainer.num_generations=8"]
    saved, resolved = [], []
    for bf16, processes, home in ((False, "1", "/home/a"), (True, "4", "/home/b")):
        monkeypatch.setattr(config, "native_bf16", lambda cpu=False, bf16=bf16: bf16)
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        monkeypatch.setenv("HOME", home)
        recipe = load_recipe(recipe_file(BASE), given)
        resolved.append(recipe.config.to_dict())
        monkeypatch.setenv("WORLD_SIZE", processes)
        saved.append(recipe.settings())
    assert saved[0] == saved[1]
    assert [one["bf16"] for one in resolved] == [False, True], "the machines must differ for this to test anything"
    assert (saved[0]["trainer"]["use_cpu"], saved[0]["trainer"]["bf16"]) == (False, None)
    assert (saved[0]["data"], saved[0]["encoder"]) == ({"path": "~/prompts.jsonl"}, "policy")
    assert saved[0]["trainer"]["generation_batch_size"] is None


def test_all_mistakes_of_a_file_and_its_overrides_are_reported_at_once(recipe_file):
    path = recipe_file("task: countdown\nalhpa: 1\ntrainer: {beta: -1, seed: 3}\n")
    with pytest.raises(RecipeError) as found:
        load_recipe(path, ["dtype=bf16"])
    for sentence in (
        f"{path}: expected the setting `output_dir`, got none",
        f"{path}: expected a known setting, got 'alhpa'; did you mean 'alpha'?",
        f"{path}: `trainer.beta` must be at least 0, got -1",
        f"{path}: `trainer.seed` has no place here; set `seed` at the top level.",
        "override 'dtype=bf16': `dtype` must be one of float32, bfloat16, float16 "
        "(did you mean 'bfloat16'?), got 'bf16'",
    ):
        assert sentence in str(found.value)


@pytest.mark.parametrize("algorithm", CONFIGS)
def test_every_default_of_trl_is_a_valid_setting(algorithm):
    trainer = recipe_model(algorithm).model_fields["trainer"].annotation
    plain = {
        spec.name: spec.default
        for spec in fields(CONFIGS[algorithm])
        if spec.name in trainer.model_fields and isinstance(spec.default, str | int | float | None)
    }
    assert len(plain) > 100, "TRL has far more settings than that"
    check(trainer, plain, "here")


@pytest.mark.parametrize(
    ("lines", "twice"),
    [
        ("trainer:\n  max_steps: 1\ntrainer.max_steps: 2\n", "trainer.max_steps"),
        ("trainer.max_steps: 2\ntrainer:\n  max_steps: 1\n", "trainer.max_steps"),
        ("lora.r: 2\nlora: {r: 4}\n", "lora.r"),
        ("task_options: {words: 3}\ntask_options.words: 3\n", "task_options.words"),
        ("data: {path: a.jsonl}\ndata.path: a.jsonl\n", "data.path"),
    ],
)
def test_a_setting_by_two_spellings_is_refused(tmp_path, lines, twice):
    path = tmp_path / "r.yaml"
    path.write_text(f"task: concepts\noutput_dir: out\n{lines}")
    with pytest.raises(RecipeError, match=rf"r.yaml: expected each setting once, got '{twice}' both in its section"):
        load_recipe(path)


def test_two_spellings_of_different_settings_belong_together(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("task: concepts\noutput_dir: out\ntrainer: {max_steps: 1}\ntrainer.beta: 0.5\n")
    assert load_recipe(path, ["trainer.max_steps=2"]).trainer == {"max_steps": 2, "beta": 0.5}, "an override may repeat"


def test_the_place_of_the_data_is_given_once(recipe_file):
    with pytest.raises(RecipeError, match=r"got `data.path` 'a' and `task_options.path` 'b'; remove the second"):
        load_recipe(recipe_file(BASE), ["task=gsm8k", "data.path=a", "task_options.path=b"])
