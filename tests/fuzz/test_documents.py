"""Files, settings, texts and numbers that somebody else wrote are taken, or refused in one sentence.

`FUZZ=5000 python -m pytest tests/fuzz` throws other inputs each time, and more of them.
"""

import inspect
from functools import cache
from pkgutil import resolve_name

import pytest
import yaml
from fuzzing import GROUPS, anything, fuzz, json_lines, nearly, numbers, refusing_in_a_sentence, text, within, yaml_text
from hypothesis import strategies as st

from dqo.errors import DQOError
from dqo.files.records import append_jsonl, read_groups, read_prompts, write_groups, write_text

PROMPTS = [{"prompt": "Say.", "reference": ["a"], "meta": {"id": "q1"}}, {"prompt": "Tell.", "meta": {"level": 2}}]
RECIPE = {
    "task": "countdown", "output_dir": "out", "model": "owner/model", "algorithm": "grpo", "alpha": 0.5, "seed": 1,
    "dtype": "float32", "kernel": "cosine", "ridge": 1.0, "encoder": "hashed", "task_options": {"numbers": 4},
    "rewards": [{"reward": "quality", "weight": 1.0}, {"reward": "length", "max_words": 9}], "lora": {"r": 4},
    "trainer": {"use_cpu": True, "max_steps": 2, "num_generations": 4, "per_device_train_batch_size": 8,
                "learning_rate": 1e-5, "save_steps": 2},
}  # fmt: skip
SWEEP = {
    "output_dir": "out", "arms": {"reward": {"alpha": 0}, "dqo": {"ridge": 2.0}}, "alphas": [0.5, 1], "seeds": [0, 1],
    "keep": "none", "base_model": True, "evaluation": {"split": "dev", "prompts": 4, "n": 4, "encoder": "hashed"},
}  # fmt: skip
OF_TRL = ("fsdp", "deepspeed", "report_to", "bf16", "lr_scheduler_type", "optim", "accelerator_config")
KEYS = [*RECIPE, *(f"trainer.{name}" for name in (*RECIPE["trainer"], *OF_TRL)), "lora.r", "data.path", "sigma",
        "task_options.seed", "combine", "credit_scale", "format", "deterministic"]  # fmt: skip
words = st.one_of(yaml_text, text, numbers.map(str), st.sampled_from(["null", "true", "[]", "{}", "-1", "1e999"]))
overrides = st.one_of(st.tuples(st.sampled_from(KEYS), words).map("=".join), text)


def spin():
    while True:
        pass


def test_the_tests_see_crashes_hangs_and_refusals_that_are_no_sentence():
    with refusing_in_a_sentence():
        raise DQOError("No.")
    with pytest.raises(KeyError), refusing_in_a_sentence():
        raise KeyError("a")
    with pytest.raises(AssertionError, match="without a word"), refusing_in_a_sentence():
        raise DQOError
    with pytest.raises(pytest.fail.Exception, match="more than 1 s"), within(1):
        spin()


@fuzz(json_lines(PROMPTS))
def test_prompts(content, folder):
    (folder / "f.jsonl").write_bytes(content)
    read_prompts(folder / "f.jsonl")


@fuzz(json_lines(GROUPS))
def test_groups_that_are_read_are_written_and_read_alike(content, folder):
    (folder / "f.jsonl").write_bytes(content)
    groups = read_groups(folder / "f.jsonl")
    write_groups(folder / "again.jsonl", groups)
    append_jsonl(folder / "more.jsonl", vars(groups[0]))
    assert read_groups(folder / "again.jsonl") == groups


@fuzz(yaml_text, cost=2)
def test_yaml(content, folder):
    from dqo.train.recipe import load_recipe

    (folder / "r.yaml").write_bytes(content.encode("utf-8", "surrogatepass"))
    load_recipe(folder / "r.yaml")


@fuzz(nearly(RECIPE), cost=10)
def test_a_recipe_that_is_read_is_saved_and_read_again(document, folder):
    from dqo.settings.yaml import to_yaml
    from dqo.train.recipe import load_recipe

    (folder / "r.yaml").write_text(yaml.safe_dump(document, allow_unicode=False))
    recipe = load_recipe(folder / "r.yaml")
    _ = recipe.config
    write_text(folder / "config.yaml", to_yaml(recipe.settings()))
    load_recipe(folder / "config.yaml")


@fuzz(st.lists(overrides, max_size=3), cost=10)
def test_overrides(given, folder):
    from dqo.train.recipe import load_recipe

    (folder / "r.yaml").write_text(yaml.safe_dump(RECIPE))
    _ = load_recipe(folder / "r.yaml", given).config


def options_of(table, names):
    """Options by right and by wrong names, for the entries of a table."""
    own = {name: list(inspect.signature(resolve_name(table[name])).parameters) for name in names}
    return st.sampled_from(sorted(own)).flatmap(
        lambda name: st.tuples(
            st.just(name), st.dictionaries(st.one_of(st.sampled_from([*own[name], "x"]), text), anything, max_size=3)
        )
    )


@st.composite
def task_options(draw):
    from dqo.tasks import TASKS

    return draw(options_of(TASKS, TASKS))


@fuzz(task_options(), cost=2)
def test_options_of_tasks(given):
    from dqo.tasks import load_task

    name, options = given
    sizes = {"train_size": 3, "dev_size": 2, "test_size": 2} if name in ("countdown", "cities") else {}
    task = load_task(name, **sizes | options)
    if sizes and all(isinstance(size, int) and size < 100 for size in (sizes | options).values()):
        task.prompts("dev")


@st.composite
def reward_options(draw):
    from dqo.rewards.loading import REWARDS

    return draw(options_of(REWARDS, ("math", "rouge", "length", "format", "ended")))


@fuzz(reward_options(), cost=2)
def test_options_of_rewards(given):
    from dqo.rewards.loading import load_reward, read_entries

    [entry] = read_entries([{"reward": given[0]} | given[1]])
    load_reward(entry)


@fuzz(nearly(SWEEP), cost=40)
def test_sweep_files(document, folder):
    from dqo.sweep.plan import read_sweep

    (folder / "base.yaml").write_text(yaml.safe_dump(RECIPE))
    if isinstance(document, dict):
        document = {"base": str(folder / "base.yaml")} | document
    (folder / "s.yaml").write_text(yaml.safe_dump(document))
    read_sweep(folder / "s.yaml")


@fuzz(st.one_of(st.lists(anything, max_size=4), anything))
def test_what_a_reward_function_returns(answers):
    from dqo.rewards import CheckedReward

    assert len(CheckedReward(lambda **_: answers)(prompts=["p", "p"], completions=["a", "\ud800"])) == 2


floats = st.one_of(st.floats(-2, 2, width=32), st.sampled_from([0.0, float("nan"), float("inf"), 1e38, 1e-38]))
entries = st.lists(floats, min_size=60, max_size=60)
sizes = st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 4))
spec = {
    "kernel": st.sampled_from(["cosine", "gaussian", "linear", "x"]),
    "credit_scale": st.sampled_from(["nats", "unit", ""]),
    "combine": st.sampled_from(["add", "gate", "quality_weighted", "spread", "multiply"]),
} | dict.fromkeys(("alpha", "sigma", "ridge", "quality_threshold", "quality_center", "quality_scale"), numbers)


@fuzz(st.tuples(sizes, entries, entries, st.fixed_dictionaries({}, optional=spec)))
def test_embeddings_and_rewards(value):
    import torch

    from dqo.diversity.credit import DiversitySpec, group_credit, shape_reward

    (P, G, D), values, rewards, chosen = value
    settings = DiversitySpec(**chosen)
    E = torch.tensor(values[: P * G * D]).reshape(P, G, D)  # (P, G, D)
    reward = torch.tensor(rewards[: P * G]).reshape(P, G)  # (P, G)
    group_credit(E, settings, reward)
    shape_reward(reward, E, settings)


@cache
def tasks_with_a_prompt():
    from dqo.tasks import load_task

    tasks = [load_task(name) for name in ("countdown", "cities")]
    return [(task, task.prompts("dev")[0]) for task in tasks]


@fuzz(text, cost=2)
def test_responses(response):
    from dqo.rewards.math_reading import final_answer, read_number, stated_number
    from dqo.rewards.shape import FormatReward, LengthReward

    for read in (final_answer, read_number, stated_number):
        read(response)
    for task, prompt in tasks_with_a_prompt():
        task.answer_span(response)
        (value,) = task.quality([prompt], [response], [True])
        assert value is None or 0 <= value <= 1
    for reward in (LengthReward(1, 5), FormatReward(r"(\w+\s?)+")):
        reward(prompts=["p"], completions=[response])
