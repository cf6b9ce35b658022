"""The doors of the project: whatever reads files, settings, texts and numbers that somebody else wrote."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from dqo.files.records import read_groups, read_prompts
from fuzz import Door
from fuzz_folders import GROUPS, folder_doors
from fuzz_inputs import anything, json_lines, nearly, numbers, text, yaml_text

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


def doors() -> list[Door]:
    """Every door, cheap ones first."""
    return [
        Door("JSONL prompts", json_lines(PROMPTS), _file(read_prompts)),
        Door("JSONL groups", json_lines(GROUPS), _file(read_groups)),
        Door("groups, read and written", json_lines(GROUPS), _rewritten),
        Door("YAML text", yaml_text, _yaml, cost=2),
        Door("recipe", nearly(RECIPE), _recipe, cost=10),
        Door("override", st.lists(_overrides(), max_size=3), _override, cost=10),
        Door("options of tasks", _options("tasks"), _task, cost=2),
        Door("options of rewards", _options("rewards"), _reward_options, cost=2),
        Door("sweep file", nearly(SWEEP), _sweep, cost=40),
        Door("reward's answers", st.one_of(st.lists(anything, max_size=4), anything), _reward),
        Door("credit", st.tuples(_numbers(), _numbers(), _settings()), _credit),
        Door("parsers of answers", text, _parsers, cost=2),
        *folder_doors(),
    ]


def _file(read: Callable[[Path], Any]) -> Callable[[bytes, Path], Any]:
    def enter(content: bytes, folder: Path) -> Any:
        (folder / "f.jsonl").write_bytes(content)
        return read(folder / "f.jsonl")

    return enter


def _rewritten(content: bytes, folder: Path) -> None:
    from dqo.files.records import append_jsonl, write_groups

    (folder / "f.jsonl").write_bytes(content)
    groups = read_groups(folder / "f.jsonl")
    write_groups(folder / "again.jsonl", groups)
    append_jsonl(folder / "more.jsonl", vars(groups[0]))
    assert read_groups(folder / "again.jsonl") == groups


def _yaml(content: str, folder: Path) -> None:
    from dqo.train.recipe import load_recipe

    (folder / "r.yaml").write_bytes(content.encode("utf-8", "surrogatepass"))
    load_recipe(folder / "r.yaml")


def _recipe(document: Any, folder: Path) -> None:
    from dqo.train.folder import save_settings
    from dqo.train.recipe import load_recipe

    (folder / "r.yaml").write_text(yaml.safe_dump(document, allow_unicode=False))
    recipe = load_recipe(folder / "r.yaml")
    _ = recipe.config
    save_settings(folder / "config.yaml", recipe.settings())
    load_recipe(folder / "config.yaml")


def _overrides() -> st.SearchStrategy:
    hosts = ("fsdp", "deepspeed", "report_to", "bf16", "lr_scheduler_type", "optim", "accelerator_config")
    keys = [*RECIPE, *(f"trainer.{name}" for name in (*RECIPE["trainer"], *hosts)), "lora.r", "data.path", "sigma",
            "task_options.seed", "combine", "credit_scale", "format", "deterministic"]  # fmt: skip
    values = st.one_of(yaml_text, text, numbers.map(str), st.sampled_from(["null", "true", "[]", "{}", "-1", "1e999"]))
    return st.one_of(st.tuples(st.sampled_from(keys), values).map("=".join), text)


def _override(words: list[str], folder: Path) -> None:
    from dqo.train.recipe import load_recipe

    (folder / "r.yaml").write_text(yaml.safe_dump(RECIPE))
    _ = load_recipe(folder / "r.yaml", words).config


def _options(kind: str) -> st.SearchStrategy:
    import inspect

    from dqo.rewards.loading import REWARDS
    from dqo.settings.checking import find
    from dqo.tasks import TASKS

    table = {
        "tasks": TASKS,
        "rewards": {name: REWARDS[name] for name in ("math", "rouge", "length", "format", "ended")},
    }[kind]
    parameters = {name: list(inspect.signature(find(kind, table, name, "data")).parameters) for name in table}
    names = st.sampled_from(sorted(table))
    return names.flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.dictionaries(st.one_of(st.sampled_from([*parameters[name], "x"]), text), anything, max_size=3),
        )
    )


def _task(value: tuple[str, dict], _: Path) -> None:
    from dqo.tasks import load_task

    name, options = value
    sizes = {"train_size": 3, "dev_size": 2, "test_size": 2} if name in ("countdown", "cities") else {}
    task = load_task(name, **sizes | options)
    if sizes and all(isinstance(size, int) and size < 100 for size in (sizes | options).values()):
        task.prompts("dev")


def _reward_options(value: tuple[str, dict], _: Path) -> None:
    from dqo.rewards.loading import Entry, load_reward

    load_reward(Entry(value[0], 1.0, value[1]))


def _sweep(document: Any, folder: Path) -> None:
    from dqo.sweep.plan import read_sweep

    (folder / "base.yaml").write_text(yaml.safe_dump(RECIPE))
    if isinstance(document, dict):
        document = {"base": str(folder / "base.yaml")} | document
    (folder / "s.yaml").write_text(yaml.safe_dump(document))
    read_sweep(folder / "s.yaml")


def _reward(answers: Any, _: Path) -> None:
    from dqo.rewards import CheckedReward

    rewards = CheckedReward(lambda **_: answers)(prompts=["p", "p"], completions=["a", "\ud800"])
    assert len(rewards) == 2


def _numbers() -> st.SearchStrategy:
    floats = st.one_of(st.floats(-2, 2, width=32), st.sampled_from([0.0, float("nan"), float("inf"), 1e38, 1e-38]))
    sizes = st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 4))
    return sizes.flatmap(
        lambda n: st.tuples(st.just(n), st.lists(floats, min_size=n[0] * n[1] * n[2], max_size=n[0] * n[1] * n[2]))
    )


def _settings() -> st.SearchStrategy:
    words = {
        "kernel": ["cosine", "gaussian", "linear", "x"],
        "credit_scale": ["nats", "unit", ""],
        "combine": ["add", "gate", "quality_weighted", "spread", "multiply"],
    }
    names = ("alpha", "sigma", "ridge", "quality_threshold", "quality_center", "quality_scale")
    optional = {name: st.sampled_from(choices) for name, choices in words.items()} | dict.fromkeys(names, numbers)
    return st.fixed_dictionaries({}, optional=optional)


def _credit(value: tuple, _: Path) -> None:
    import torch

    from dqo.diversity.credit import group_credit, shape_reward
    from dqo.diversity.settings import DiversitySpec

    ((P, G, D), rows), (_, rewards), chosen = value
    spec = DiversitySpec(**chosen)
    E = torch.tensor(rows).reshape(P, G, D)  # (P, G, D)
    reward = torch.tensor((rewards + [0.5] * (P * G))[: P * G]).reshape(P, G)  # (P, G)
    group_credit(E, spec, reward)
    shape_reward(reward, E, spec)


def _parsers(response: str, _: Path) -> None:
    from dqo.rewards.math_reading import final_answer, read_number, stated_number
    from dqo.rewards.shape import FormatReward, LengthReward

    final_answer(response)
    read_number(response)
    stated_number(response)
    for task, prompt in _tasks():
        task.answer_span(response)
        (value,) = task.quality([prompt], [response], [True])
        assert value is None or 0 <= value <= 1
    for reward in (LengthReward(1, 5), FormatReward(r"(\w+\s?)+")):
        reward(prompts=["p"], completions=[response])


@cache
def _tasks() -> list[tuple[Any, Any]]:
    from dqo.tasks import load_task

    tasks = [load_task(name) for name in ("countdown", "cities")]
    return [(task, task.prompts("dev")[0]) for task in tasks]
