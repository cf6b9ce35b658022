"""The front door: fast, and every mistake one line on stderr with status 2."""

import importlib.util
import json
import subprocess
import sys
import time

import pytest

import dqo
from dqo.cli.main import build_parser, main
from dqo.settings.yaml import parse_yaml
from dqo.tasks import option_flags


def test_help_is_instant_and_loads_nothing_heavy():
    def seconds():
        start = time.perf_counter()
        result = subprocess.run([sys.executable, "-m", "dqo", "--help"], capture_output=True, text=True)
        assert result.returncode == 0
        assert all(command in result.stdout for command in ("train", "sample", "eval", "compare", "doctor"))
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5
    probe = (
        "import sys, dqo.cli.main as m; m.build_parser(); print(*{'torch', 'yaml', 'transformers'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "\n"


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"dqo {dqo.__version__}\n"


def test_ctrl_c_before_the_command_begins(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("dqo.cli.main.build_parser", interrupt)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "dqo: interrupted\n"


@pytest.fixture
def refused(capsys):
    """Runs a command that must fail; returns its one line on stderr."""

    def run(*args):
        assert main([str(arg) for arg in args]) == 2
        *noise, line = capsys.readouterr().err.splitlines()
        assert line.startswith("dqo: error: ")
        assert not any("Traceback" in other for other in noise)
        return line.removeprefix("dqo: error: ")

    return run


def test_override_after_a_flag_is_still_an_override(refused, own_recipe):
    assert "got 'alhpa'; did you mean 'alpha'?" in refused("train", own_recipe(), "--resume", "alhpa=1")


def test_unknown_flag_is_refused(own_recipe, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", str(own_recipe()), "--alpha=1"])
    assert stop.value.code == 2
    assert "unrecognized arguments: --alpha=1" in capsys.readouterr().err


def test_missing_model(refused, own_recipe, tmp_path):
    line = refused("train", own_recipe(), f"model={tmp_path / 'absent'}")
    assert "absent" in line
    assert "no such folder exists" in line
    assert not (tmp_path / "run" / "config.yaml").exists(), "a run that never began must not block the next"


def test_folder_without_a_model(refused, tmp_path, prompt_file):
    (tmp_path / "empty").mkdir()
    line = refused("sample", "--model", tmp_path / "empty", "--data", prompt_file, "--out", tmp_path / "out")
    assert "to be a folder written by save_pretrained" in line


def test_unfinished_run_as_model(refused, tmp_path, prompt_file):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    line = refused("sample", "--model", tmp_path / "run", "--data", prompt_file, "--out", tmp_path / "out")
    assert "expected a finished run with checkpoints/final" in line


def test_misspelt_key(refused, own_recipe):
    assert refused("train", own_recipe(), "lerning_rate=1").endswith("did you mean 'trainer.learning_rate'?")


def test_bad_row_names_file_line_and_field(refused, own_recipe, prompt_file):
    prompt_file.write_text('{"prompt": "fine"}\n{"prompt": 3}\n')
    assert refused("train", own_recipe()).startswith(f"{prompt_file}, line 2: `prompt` must be text that is not blank")


def test_too_few_prompts_for_a_step(refused, own_recipe, prompt_file):
    prompt_file.write_text('{"prompt": "one only"}\n')
    line = refused("train", own_recipe())
    assert "task 'jsonl': expected at least 2 prompts to train on, one per group of a step, got 1" in line


def test_a_task_without_a_data_set_takes_no_path(refused, own_recipe, prompt_file):
    assert "task 'jsonl': expected a known setting, got 'path'" in refused(
        "train", own_recipe(), f"data.path={prompt_file}"
    )


def test_unwritable_folder_fails_before_the_model_is_looked_for(refused, own_recipe, prompt_file):
    line = refused("train", own_recipe(), f"output_dir={prompt_file / 'run'}", "model=/absent/policy")
    assert line.startswith(f"{prompt_file / 'run'}: writing failed (Not a directory); make the place writable,")


def test_unwritable_output_of_a_sampling(refused, prompt_file):
    line = refused("sample", "--model", "/absent/policy", "--data", prompt_file, "--out", prompt_file / "out")
    assert line.startswith(f"{prompt_file / 'out'}: writing failed (Not a directory); make the place writable,")


def test_folder_that_holds_something(refused, own_recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").touch()
    assert "with --resume a run to continue, but it holds 'thesis.txt'; add --resume" in refused("train", own_recipe())


@pytest.mark.parametrize(
    ("reward", "message"),
    [("absent.fn", "No module named 'absent'"), ("json.absent", "expected a function of that module, got 'absent'")],
)
def test_missing_reward(refused, own_recipe, tmp_path, reward, message):
    assert message in refused("train", own_recipe(), f"task_options.reward={reward}")
    path = tmp_path / "groups.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "p", "responses": ["x", "y"], "finish": ["eos", "eos"]}) + "\n")
    assert message in refused("eval", "--responses", path, "--reward", reward, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "m"], "needs prompts, got neither --data nor --task"),
        (["--model", "m", "--split", "dev", "--data", "d"], "--data and --split contradict each other"),
        (["--model", "m", "--split", "dev"], "--split needs --task, got none"),
        (["--model", "m", "--data", "d", "--task-option", "a=1"], "--task-option needs --task, got none"),
        (["--model", "m", "--data", "d", "--format", "verl"], "--format needs --responses, got none"),
        (["--responses", "/absent.jsonl"], "/absent.jsonl: expected a readable file of responses"),
        (["--responses", "r", "--column", "prompt"], "--column 'prompt': expected key=value"),
        (["--model", "m", "--task", "count"], "did you mean 'countdown'?"),
        (["--model", "m", "--task", "countdown", "--task-option", "seed"], "expected key=value"),
        (["--model", "m", "--task", "countdown", "--data", "d", "--split", "dev"], "--data and --split contradict"),
        (["--responses", "r", "--n", "50"], "--responses and --n contradict each other, got both; leave one out"),
        (["--responses", "r", "--endpoint", "u"], "--responses and --endpoint contradict"),
        (["--responses", "r", "--heldout-encoder", "hashed"], "expected another encoder than `encoder`"),
    ],
)
def test_eval_flags_that_contradict(refused, tmp_path, args, message):
    assert message in refused("eval", *args, "--encoder", "hashed", "--out", tmp_path / "out")


def test_eval_of_responses_without_reward_says_that_quality_is_null(tmp_path, capsys):
    path = tmp_path / "groups.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "p", "responses": ["x b", "y"], "finish": ["eos", "eos"]}) + "\n")
    assert main(["eval", "--responses", str(path), "--encoder", "hashed", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "note: quality, max@k, pass@k and what needs them are null: no task or reward was given." in said
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert document["metrics"]["quality"] is None
    assert 1.9 < document["metrics"]["vendi_1"]["mean"] <= 2.0, "two responses without a common word"


def test_options_of_a_task_survive_the_way_through_a_command_line():
    """A sweep hands them to `dqo eval`, where flags are read as YAML."""
    options = {
        "template": "Solve.\n{prompt}\n\nEnd with #### and the answer: “5”.", "words": 2, "level": "yes", "path": "1e3",
        "note": "{prompt}", "pairs": [["a", 1.5]], "none": None,
    }  # fmt: skip
    args = build_parser().parse_args(
        ["eval", "--responses", "r", "--task", "gsm8k", "--out", "x", *option_flags(options)]
    )
    read = {name: parse_yaml(text, name) for name, _, text in (flag.partition("=") for flag in args.task_option)}
    assert read == options


def test_a_limit_does_not_shorten_the_file_it_reads(refused, tmp_path):
    row = {"prompt": "p", "responses": ["x", "y"], "finish": ["eos", "eos"]}
    path = tmp_path / "groups.jsonl"
    text = "".join(json.dumps({"id": name} | row) + "\n" for name in "abc")
    path.write_text(text)
    flags = ["eval", "--responses", path, "--encoder", "hashed", "--limit"]
    assert "expected no samples that would be replaced, got some; choose another" in refused(
        *flags, "1", "--out", tmp_path
    )
    assert path.read_text() == text
    assert main([*map(str, flags), "3", "--out", str(tmp_path)]) == 0
    assert main([*map(str, flags), "1", "--out", str(tmp_path / "one")]) == 0


def test_responses_do_not_take_the_place_of_others(refused, tmp_path):
    path, out = tmp_path / "groups.jsonl", tmp_path / "sampled"
    path.write_text(json.dumps({"id": "a", "prompt": "p", "responses": ["x", "y"], "finish": ["eos", "eos"]}) + "\n")
    out.mkdir()
    (out / "sampling.json").write_text("{}")
    assert "expected no samples that would be replaced" in refused(
        "eval", "--responses", path, "--encoder", "hashed", "--out", out
    )
    assert [entry.name for entry in out.iterdir()] == ["sampling.json"]


def test_a_folder_that_holds_no_run_is_not_continued(refused, own_recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").touch()
    line = refused("train", own_recipe(), "--resume")
    assert "expected an empty or new folder, or with --resume a run to continue, but it holds 'thesis.txt'" in line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "lora.target_modules=[qq_proj]",
            "lora: peft refuses target_modules={'qq_proj'}: NoMatching",
        ),
        (
            "trainer.report_to=wandb",
            "trainer: TRL refuses report_to='wandb': RuntimeError: WandbCallback requires wandb",
        ),
    ],
)
def test_what_the_host_refuses_late_is_one_sentence(refused, own_recipe, override, message):
    assert message in refused("train", own_recipe(), override)


def test_evaluations_by_different_rewards_are_not_compared(refused, tmp_path):
    path = tmp_path / "groups.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "p", "responses": ["x b", "y"], "finish": ["eos", "eos"]}) + "\n")
    (tmp_path / "r.py").write_text("def a(completions, **_):\n    return [0.1] * len(completions)\n\n\nb = a\n")
    for name in "ab":
        flags = ["--reward", f"{tmp_path}/r.py:{name}", "--encoder", "hashed", "--out", tmp_path / name]
        assert main(["eval", "--responses", str(path), *map(str, flags)]) == 0
    line = refused("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    assert "Runs must agree on scoring to be compared, got {'reward': " in line


def test_verl_without_its_packages_is_one_sentence():
    if importlib.util.find_spec("verl"):
        pytest.skip("verl is installed")
    command = [sys.executable, "-m", "dqo.integrations.verl.main"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: verl needs the package ")
    assert done.stderr.count("\n") == 1


def test_compare_of_nothing(refused, tmp_path):
    assert "metrics.json" in refused("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
