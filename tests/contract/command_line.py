"""Commands and flags; keys of recipes and sweeps; log names, files and metrics of tiny real runs."""

import argparse
import contextlib
import dataclasses
import io
import json
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

# Overrides of the tiny recipe; the first three show the defaults.
RUNS = {
    "grpo": [],
    "rloo": ["algorithm=rloo"],
    "ppo": ["algorithm=ppo"],
    "weighted": ["combine=quality_weighted", "trainer.beta=0.1", "trainer.num_iterations=2"],
    "auto": ["alpha=auto", "quality_floor=0.1", "lora.r=4"],
    "entropy": ["diversity=entropy", "alpha=0.05", "lora.alpha=8"],
}
# A value of each kind. A key takes the kinds with which a file that is otherwise right is not refused.
KINDS = {"bool": True, "int": 1, "float": 0.5, "str": "all", "list": [], "dict": {}, "None": None}
# What TRL writes beside a model or into a checkpoint; its versions differ in it.
TRLS = {"README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "config.json",
        "generation_config.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt",
        "tokenizer.json", "tokenizer_config.json", "trainer_state.json", "training_args.bin"}  # fmt: skip
REWARD = "def words(prompts, completions, **columns):\n    return [min(1.0, len(c) / 40) for c in completions]\n"
PROMPTS = {"train": ("the dog", "a cat", "red bird", "big cat"), "test": ("small bird", "blue cat")}


def dqo(*args: Any) -> tuple[int, str]:
    """`dqo ARGS` in this process: exit status, and all that was said."""
    said = io.StringIO()
    sys.argv = ["dqo", *map(str, args)]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            runpy.run_module("dqo", run_name="__main__")
    except SystemExit as end:
        return end.code or 0, said.getvalue()
    return 0, said.getvalue()


def succeed(*args: Any) -> None:
    """`dqo ARGS`, which must do."""
    status, said = dqo(*args)
    if status:
        sys.exit(f"`dqo {' '.join(map(str, args))}` ended with {status}:\n{said[-3000:]}")


def once(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What all tables have alike under `every`, and the rest of each."""
    first = next(iter(tables.values()))
    every = {
        key: value for key, value in first.items() if all(table.get(key, ...) == value for table in tables.values())
    }
    rest = {name: {key: value for key, value in table.items() if key not in every} for name, table in tables.items()}
    return {"every": every} | {name: table for name, table in rest.items() if table}


def plain(value: Any) -> Any:
    """A value that the contract shows as one entry."""
    return repr(value) if isinstance(value, dict | list) else value


class _ParserCaught(Exception):
    """Carries the parser that the command line was about to use."""


def commands() -> dict[str, dict[str, str]]:
    """Command -> argument -> how it is given."""

    def catch(parser: argparse.ArgumentParser, *args: Any, **options: Any) -> None:
        raise _ParserCaught(parser)

    real, argparse.ArgumentParser.parse_known_args = argparse.ArgumentParser.parse_known_args, catch
    try:
        dqo("doctor")
        sys.exit("`dqo` no longer parses its arguments with argparse; read its commands in another way.")
    except _ParserCaught as caught:
        [subparsers] = [one for one in caught.args[0]._actions if isinstance(one, argparse._SubParsersAction)]
    finally:
        argparse.ArgumentParser.parse_known_args = real
    return {name: dict(_argument(action) for action in parser._actions if action.dest != "help")
            for name, parser in subparsers.choices.items()}  # fmt: skip


def _argument(action: argparse.Action) -> tuple[str, str]:
    flag = action.nargs == 0
    parts = ["a flag" if flag else {"?": "one or none", "+": "one or more", "*": "any"}.get(action.nargs, "one")]
    parts += ["may be repeated"] if isinstance(action, argparse._AppendAction) else []
    parts += ["required"] if action.required else []
    parts += [f"of {', '.join(map(str, action.choices))}"] if action.choices else []
    parts += [] if flag or action.default in (None, []) else [f"default {action.default!r}"]
    return ", ".join(action.option_strings) or action.dest, "; ".join(parts)


class Lab:
    """A folder with a tiny policy, prompts, a reward, a recipe and a sweep."""

    def __init__(self, folder: Path):
        sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
        from tiny import save_tiny_policy

        self.folder = folder
        save_tiny_policy(folder / "policy")
        (folder / "reward.py").write_text(REWARD)
        for split, prompts in PROMPTS.items():
            (folder / f"{split}.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
        self.recipe = {
            "task": "jsonl", "model": f"{folder}/policy", "output_dir": f"{folder}/full", "encoder": "hashed:64",
            "task_options": {"reward": f"{folder}/reward.py:words", "train": f"{folder}/train.jsonl",
                             "test": f"{folder}/test.jsonl", "max_completion_length": 6},
            "trainer": {"use_cpu": True, "max_steps": 2, "num_generations": 4, "per_device_train_batch_size": 8,
                        "save_steps": 1, "gradient_checkpointing": False},
        }  # fmt: skip
        self.sweep = {"base": self._file("recipe.yaml", self.recipe), "output_dir": f"{folder}/sweep",
                      "arms": {"dqo": {}}, "evaluation": {"data": f"{folder}/test.jsonl"}}  # fmt: skip

    def contract(self) -> dict[str, Any]:
        """All that runs show; the training runs come first."""
        logged = {name: self._train(name, overrides) for name, overrides in RUNS.items()}
        files = {name: dict.fromkeys(self._files(name), "") for name in RUNS}
        lora = {"r": ("entropy", "r"), "alpha": ("auto", "lora_alpha"), "dropout": ("auto", "lora_dropout")}
        return {
            "recipe keys": once({name: self._recipe_keys(name) for name in ("grpo", "rloo", "ppo")})
            | {"lora": {key: self._adapter(run)[name] for key, (run, name) in lora.items()}},
            "recipe types": self._recipe_types(),
            "sweep types": self._sweep_types(),
            "log": {name: list(names) for name, names in once(logged).items()},
            "files of a run": {name: list(names) for name, names in once(files).items()},
            "resolved.yaml": sorted(self._read("grpo/resolved.yaml")),
        } | self._evaluations()

    def _file(self, name: str, document: Mapping[str, Any]) -> str:
        (self.folder / name).write_text(yaml.safe_dump(dict(document)))
        return f"{self.folder / name}"

    def _read(self, name: str) -> Any:
        """The first document of a YAML or JSON file, or the first line of one with many."""
        text = (self.folder / name).read_text()
        return yaml.safe_load(text.splitlines()[0] if name.endswith(".jsonl") else text)

    def _files(self, name: str) -> list[str]:
        """Files and folders, but files of TRL's."""
        paths = sorted(path for path in (self.folder / name).rglob("*") if path.name not in TRLS)
        return [f"{path.relative_to(self.folder / name)}{'/' if path.is_dir() else ''}" for path in paths]

    def _train(self, name: str, overrides: list[str]) -> dict[str, str]:
        """One run; gives the names in its log."""
        succeed("train", self.folder / "recipe.yaml", f"output_dir={self.folder / name}", *overrides)
        lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
        return dict.fromkeys(sorted(set().union(*map(json.loads, lines))), "")

    def _adapter(self, run: str) -> dict[str, Any]:
        return self._read(f"{run}/checkpoints/final/adapter_config.json")

    def _recipe_keys(self, run: str) -> dict[str, Any]:
        """Keys that are ours, with the defaults that config.yaml shows; `given` where the tiny recipe sets them."""
        import trl

        theirs = {field.name for field in dataclasses.fields(trl.RLOOConfig if run == "rloo" else trl.GRPOConfig)}
        config = self._read(f"{run}/config.yaml")
        found = {key: value for key, value in config.items() if key != "trainer"}
        found |= {f"trainer.{key}": value for key, value in config["trainer"].items() if key not in theirs}
        return {key: "given" if key in {*self.recipe, "algorithm"} else plain(value) for key, value in found.items()}

    def _types(self, accepted: Callable[[str, Any], bool], keys: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """The kinds of value that keys take; a key may need another value of a kind, and `...` asks for none."""
        return {
            key: " | ".join(
                name for name, value in (KINDS | own).items() if value is not ... and accepted(key, value)
            )
            for key, own in keys.items()
        }  # fmt: skip

    def _recipe_types(self) -> dict[str, str]:
        """Types of the recipe's own keys: with one of the right type it comes as far as the folder, which is full."""
        (self.folder / "full").mkdir()
        (self.folder / "full" / "file").touch()
        refusal = dqo("train", self.folder / "recipe.yaml")[1].splitlines()[-1]

        def accepted(key: str, value: Any) -> bool:
            section, _, name = key.rpartition(".")
            probe = self._file("probe.yaml", self.recipe | {section or name: {name: value} if section else value})
            return dqo("train", probe)[1].splitlines()[-1] == refusal

        recipe, file = self.recipe, f"{self.folder}/train.jsonl"
        return self._types(accepted, {
            "task": {"str": "jsonl"}, "output_dir": {"str": recipe["output_dir"]}, "model": {"str": recipe["model"]},
            "system_prompt": {}, "task_options": {"dict": recipe["task_options"], "None": ...},
            "data": {"dict": {"path": file}}, "data.path": {"str": file}, "rewards": {}, "dtype": {"str": "bfloat16"},
            "lora": {}, "lora.r": {}, "lora.alpha": {}, "lora.dropout": {"int": 0},
            "lora.target_modules": {"str": "all-linear", "list": ["q_proj"]}, "algorithm": {"str": "rloo"}, "seed": {},
            "deterministic": {}, "heldout_encoder": {"str": "hashed:32"},
            "trainer": {"dict": recipe["trainer"], "None": ...},
        })  # fmt: skip

    def _sweep_types(self) -> dict[str, str]:
        """Types of the keys of a sweep's file, by dry runs."""
        test = self.sweep["evaluation"]["data"]

        def accepted(key: str, value: Any) -> bool:
            section, _, name = key.rpartition(".")
            change = {name: value}
            if section:
                change = {section: ({} if name == "split" and value else {"data": test}) | change}
            return dqo("sweep", self._file("probe.yaml", self.sweep | change), "--dry-run")[0] == 0

        own = {
            "base": {"str": self.sweep["base"]}, "output_dir": {"str": self.sweep["output_dir"]},
            "arms": {"dict": {"dqo": {}}}, "alphas": {"list": [0.5]}, "seeds": {"list": [1]},
            "evaluation": {"dict": self.sweep["evaluation"]}, "base_model": {}, "keep": {},
        }  # fmt: skip
        inner = {
            "data": {"str": test, "None": ...}, "split": {"str": "test"}, "prompts": {}, "n": {}, "seed": {},
            "encoder": {"str": "hashed:32"}, "heldout_encoder": {"str": "hashed:32"}, "max_new_tokens": {},
            "temperature": {}, "batch_size": {}, "folder": {"str": "eval-other"},
        }  # fmt: skip
        return self._types(accepted, own | {f"evaluation.{name}": values for name, values in inner.items()})

    def _evaluations(self) -> dict[str, Any]:
        """Files of the other commands, and names in them."""
        folder = self.folder
        asked = ["--data", folder / "test.jsonl", "--n", "4", "--max-new-tokens", "6"]
        succeed("sample", "--model", folder / "policy", *asked, "--out", folder / "sample")
        asked += ["--reward", f"{folder}/reward.py:words", "--encoder", "hashed:64", "--heldout-encoder", "hashed:32"]
        for model, out in (("policy", "evaluation"), ("ppo", "other")):
            succeed("eval", "--model", folder / model, *asked, "--out", folder / out)
        succeed("compare", folder / "evaluation", folder / "other", "--out", folder / "comparison")
        succeed("sweep", self._file("sweep.yaml", self.sweep))
        metrics, results = self._read("evaluation/metrics.json"), self._read("sweep/results.json")
        given = {*self.sweep["evaluation"], "task", "task_options", "encoder", "max_new_tokens"}
        return {
            "files of": {name: self._files(name) for name in ("sample", "evaluation", "comparison", "sweep")},
            "metrics.json": {"fields": sorted(metrics)}
            | {part: sorted(metrics[part]) for part in ("metrics", "corpus", "sampling")},
            "groups.jsonl": sorted(self._read("evaluation/groups.jsonl")),
            "comparison.json": sorted(self._read("comparison/comparison.json")),
            "results.json": sorted(results),
            "evaluation of a sweep": {name: "given" if name in given else plain(value)
                                      for name, value in results["evaluation"].items()},
        }  # fmt: skip
