"""`dqo sweep`: plan, refusals, failures, results from made-up evaluations; and one real run, killed and resumed."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dqo.cli.main import build_parser, main
from dqo.errors import RecipeError
from dqo.sweep import run as sweep_command
from dqo.sweep.plan import read_sweep

# Stands for `python -m dqo` where the test is about the sweep: quality and Vendi follow from arm and alpha.
STAND_IN = """
import json, os, re, sys
from pathlib import Path
command, *rest = sys.argv[1:]
if command == "train":
    run = Path(rest[0]).parent
    with (run / "trained").open("a") as log: log.write("x")
    if "broken" in run.name:
        sys.exit("dqo: error: reward 'words' raised KeyError: 3; mend it.")
    (run / "checkpoints" / "final").mkdir(parents=True)
    (run / "checkpoints" / "checkpoint-2").mkdir()
    (run / "checkpoints" / "README.md").write_text("the host's model card")
    sys.exit()
flag = lambda name: next(word.partition("=")[2] for word in rest if word.startswith(name + "="))
out, n, seed = Path(flag("--out")), int(flag("--n")), int(flag("--seed"))
out.mkdir(exist_ok=True)
alpha, run_seed = [float(x[0]) if (x := re.findall(key + r"([0-9.]+?)(?:-|$)", out.parent.name)) else 0.0
                   for key in ("alpha", "seed")]
prompts = [json.loads(line)["prompt"] for line in open(flag("--data"))][: int(flag("--limit"))]
rows = [{"id": f"unseen-{i + 1}", "quality": 0.9 - alpha / 4 + i / 100 + run_seed / 50, "vendi_1": 1 + alpha + i / 10,
         **{f"{m}@{k}": 0.5 + k / 10 for m in ("max", "pass") for k in (1, 2, 3)}}
        for i in range(len(prompts))]
groups = [{"id": row["id"], "prompt": prompt, "responses": ["a"] * n, "finish": ["eos"] * n}
          for row, prompt in zip(rows, prompts)]
mean = lambda name: sum(row[name] for row in rows) / len(rows)
metrics = {name: {"mean": mean(name), "low": mean(name) - 0.1, "high": mean(name) + 0.1}
           for name in rows[0] if name != "id"}
facts = {"n_prompts": len(prompts), "n_samples": n, "encoder": flag("--encoder"), "heldout_encoder": None,
         "task": flag("--task"), "pass_threshold": 0.5, "seed": seed}
(out / "groups.jsonl").write_text("".join(json.dumps(g) + "\\n" for g in groups))
(out / "prompt_metrics.jsonl").write_text("".join(json.dumps(r) + "\\n" for r in rows))
(out / "sampling.json").write_text(json.dumps({"n": n, "seed": seed, "temperature": 1.0, "max_new_tokens": 6,
                                               "chat_template": True}))
(out / "metrics.json").write_text(json.dumps(facts | {"metrics": metrics}))
"""


@pytest.fixture
def sweep_file(own_recipe, tmp_path):
    """Writes the file of a sweep over the tiny recipe; settings by keyword, None leaves one out."""
    (tmp_path / "unseen.jsonl").write_text('{"prompt": "blue river"}\n{"prompt": "new bird"}\n{"prompt": "sad cat"}\n')

    def write(recipe=None, **changes):
        document = {
            "base": str(own_recipe(**(recipe or {}))),
            "output_dir": str(tmp_path / "sweep"),
            "arms": {"reward-only": {"alpha": 0}, "dqo": {}},
            "alphas": [0.5, 1.0],
            "seeds": [0, 1],
            "evaluation": {"data": str(tmp_path / "unseen.jsonl"), "prompts": 2, "n": 3},
        } | changes
        path = tmp_path / "sweep.yaml"
        path.write_text(
            yaml.safe_dump({key: value for key, value in document.items() if value is not None}, sort_keys=False)
        )
        return str(path)

    return write


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(sweep_command, "DQO", [sys.executable, str(script)])


@pytest.fixture
def refused(capsys):
    def run(*args):
        assert main(["sweep", *args]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("dqo: error: ")
        return line

    return run


def test_every_policy_is_asked_with_the_base_s_system_prompt(sweep_file, refused):
    sweep, _ = read_sweep(sweep_file({"system_prompt": "Be brief."}))
    assert "--system-prompt=Be brief." in sweep.evaluation.flags()
    sweep, _ = read_sweep(sweep_file({"system_prompt": "-n: no names\n--\n1e-5"}))
    args = build_parser().parse_args(["eval", "--model", "m", *sweep.evaluation.flags(), "--out", "o"])
    assert args.system_prompt == "-n: no names\n--\n1e-5", "text that looks like a flag is text"
    assert not any("--system-prompt" in flag for flag in read_sweep(sweep_file())[0].evaluation.flags())
    said = refused(sweep_file(arms={"dqo": {"system_prompt": "x"}}), "--dry-run")
    assert "`system_prompt` cannot be set here; it is one for all arms" in said


def test_the_whole_of_it(sweep_file, stand_in, tmp_path, capsys):
    file, out = sweep_file(), tmp_path / "sweep"
    assert main(["sweep", file, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "dqo-alpha0.5-seed1        to be trained and evaluated" in plan
    assert "0 of 7 runs are done already" in plan, "base, two seeds of one arm, two seeds of two alphas of the other"
    assert not out.exists(), "a dry run leaves nothing behind"

    assert main(["sweep", file, "--only", "dqo"]) == 0
    missing = "base, reward-only-alpha0-seed0, reward-only-alpha0-seed1"
    assert f"Not in the tables: {missing}, not run yet.\n" in capsys.readouterr().out
    assert main(["sweep", file, "--jobs", "2"]) == 0
    said = capsys.readouterr()
    assert "4 of 7 runs are done already" in said.err
    trained = sorted(path.parent.name for path in out.glob("runs/*/trained") if path.read_text() == "x")
    assert trained == ["dqo-alpha0.5-seed0", "dqo-alpha0.5-seed1", "dqo-alpha1-seed0", "dqo-alpha1-seed1",
                       "reward-only-alpha0-seed0", "reward-only-alpha0-seed1"]  # fmt: skip
    results = json.loads((out / "results.json").read_text())
    points = {(point["arm"], point["alpha"]): point for point in results["points"]}
    assert list(points) == [("base", None), ("reward-only", 0), ("dqo", 0.5), ("dqo", 1.0)]
    assert points["dqo", 1.0]["seeds"] == [0, 1]
    assert points["dqo", 1.0]["interval"].startswith("seeds")
    assert points["base", None]["interval"].startswith("prompts")
    # Two seeds .02 apart: std .02/√2, divided by √2 seeds, times t(.975, 1) = 12.706.
    quality = points["dqo", 0.5]["metrics"]["quality"]
    assert quality["mean"] == pytest.approx(0.79)
    assert quality["high"] - quality["mean"] == pytest.approx(12.706 * 0.01, abs=1e-4)
    # dqo's two points, seeds averaged: (.79, 1.55) and (.665, 2.05) on [0, 1] × [1, 3].
    volume = results["hypervolume"]["dqo"]
    assert volume["mean"] == pytest.approx(0.79 * 0.275 + 0.665 * 0.25)
    assert volume["low"] < volume["mean"] < volume["high"]
    assert [found["points"] for found in results["hypervolume"].values()] == [1, 2], "and none of the base model"
    assert len((out / "results.csv").read_text().splitlines()) == 8
    assert "| dqo ★" in said.out
    assert (out / "front.png").stat().st_size > 5000


def test_a_broken_arm_is_named_and_the_rest_goes_on(sweep_file, stand_in, tmp_path, capsys):
    file = sweep_file(arms={"broken": {}, "fine": {"combine": "quality_weighted"}}, seeds=[0], base_model=False)
    assert main(["sweep", file, "--jobs", "2"]) == 1
    said = capsys.readouterr()
    assert "failed: broken-alpha0.5-seed0: training: reward 'words' raised KeyError: 3; mend it." in said.err
    results = json.loads((tmp_path / "sweep" / "results.json").read_text())
    assert [one["run"] for one in results["missing"]] == ["broken-alpha0.5-seed0", "broken-alpha1-seed0"]
    assert [point["arm"] for point in results["points"]] == ["fine", "fine"]
    assert main(["sweep", file]) == 1
    assert (tmp_path / "sweep/runs/broken-alpha0.5-seed0/trained").read_text() == "xx", "a failed run is tried again"
    assert (tmp_path / "sweep/runs/fine-alpha0.5-seed0/trained").read_text() == "x"


def test_checkpoints_go_when_they_are_not_kept_and_the_run_stays_done(sweep_file, stand_in, tmp_path, capsys):
    run = tmp_path / "sweep" / "runs" / "dqo-alpha1-seed0"
    for keep, left in (("all", ["checkpoint-2", "final"]), ("final", ["final"]), ("none", [])):
        assert main(["sweep", sweep_file(arms={"dqo": {"alpha": 1}}, alphas=None, seeds=[0], keep=keep)]) == 0
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["README.md", *left]
    assert (run / "trained").read_text() == "x"


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("metrics.json", lambda text: text[:40], "expected one JSON object, got"),
        ("metrics.json", lambda text: text.replace("hashed", "other"), "encoder is 'other' here and 'hashed' in base"),
        ("groups.jsonl", lambda text: text.splitlines()[0], "expected answers to the 2 prompts of this sweep, got 1"),
        ("prompt_metrics.jsonl", lambda text: "", "got an empty file"),
        ("prompt_metrics.jsonl", None, "got No such file or directory"),
    ],
)
@pytest.mark.parametrize("name", ["base", "dqo-alpha1-seed0"])
def test_one_bad_evaluation_leaves_the_others_in_the_tables(
    sweep_file, stand_in, tmp_path, capsys, name, file, change, reason
):
    sweep = sweep_file(seeds=[0])
    assert main(["sweep", sweep]) == 0
    path = tmp_path / "sweep" / "runs" / name / "eval" / file
    path.write_text(change(path.read_text())) if change else path.unlink()
    reason = reason.replace("in base", "in " + ("base" if name != "base" else "reward-only-alpha0-seed0"))
    capsys.readouterr()
    assert main(["sweep", sweep, "--dry-run"]) == 0
    assert reason in capsys.readouterr().err, "told before hours of training"
    assert main(["sweep", sweep]) == 1
    said = capsys.readouterr()
    assert f"failed: {name}: " in said.err
    assert reason in said.err
    results = json.loads((tmp_path / "sweep" / "results.json").read_text())
    assert [one["run"] for one in results["missing"]] == [name]
    assert reason in results["missing"][0]["reason"]
    assert len(results["points"]) == 3, "of base, reward-only and two alphas"


def test_what_lies_there_from_other_settings_is_refused(sweep_file, stand_in, refused, tmp_path):
    same = {"arms": {"dqo": {"alpha": 1}}, "alphas": None, "seeds": [0]}
    assert main(["sweep", sweep_file(**same)]) == 0
    line = refused(sweep_file(**same | {"arms": {"dqo": {"alpha": 1, "ridge": 0.5}}}))
    assert "recipe.yaml: expected the recipe of this sweep, but 'ridge' was None and is now 0.5" in line
    more = {"data": str(tmp_path / "unseen.jsonl"), "prompts": 2, "n": 4}
    assert "evaluated alike, but 'n' was 3 and is now 4" in refused(sweep_file(**same, evaluation=more))
    assert main(["sweep", sweep_file(**same, evaluation=more | {"folder": "eval-four"})]) == 0
    assert (tmp_path / "sweep" / "eval-four" / "results.json").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"arms": {"dqo": {"kernle": "cosine"}}}, "arm 'dqo': expected a known setting, got 'kernle'"),
        ({"arms": {"dqo": {"trainer": {"learning_rate": "fast"}}}}, "`trainer.learning_rate` must be a number"),
        ({"arms": {"dqo": {"combine": "spread"}}}, "arm 'dqo': `quality_threshold` belongs to"),
        ({"arms": {"dqo": {"seed": 3}}}, "`seed` cannot be set here; it is one for all arms or has a grid"),
        ({"arms": {"dqo": {"alpha": 1, "alphas": [1, 2]}}}, "`alpha` cannot be set here; it is one for all"),
        ({"arms": {"a/b": {}}}, "`arms.a/b` must be text of the form ^[A-Za-z0-9]"),
        ({"alphas": [-1]}, "alpha"),
        ({"seeds": [0, False]}, "`seeds.1` must be a whole number, got False"),
        ({"seeds": [1.0]}, "`seeds.0` must be a whole number, got 1.0"),
        ({"seeds": "0, 1"}, "`seeds` must be a list, got '0, 1'"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml: expected a readable recipe, got No such file"),
        ({"base": None}, "expected the setting `base`, got none"),
        ({"colour": 1}, "expected a known setting, got 'colour'; choose one of"),
        ({"evaluation": {"n": 3}}, "expected either `split` or `data`, a file"),
        ({"evaluation": {"split": "train", "n": 3}}, "prompts that no run is trained on, but 4 are"),
        ({"evaluation": {"split": "dev", "heldout_encoder": "hashed"}}, "arm 'reward-only': heldout_encoder: expected"),
        (
            {"arms": {"dqo": {"encoder": "multilingual"}},
             "evaluation": {"split": "dev", "heldout_encoder": "paraphrase-multilingual-MiniLM-L12-v2"}},
            "arm 'dqo': heldout_encoder: expected another encoder than `encoder`, which it checks, got "
            "'paraphrase-multilingual-MiniLM-L12-v2' beside 'multilingual'",
        ),
        ({"keep": "some"}, "`keep` must be one of all, final, none, got 'some'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence_before_anything_runs(sweep_file, refused, tmp_path, changes, sentence):
    assert sentence in refused(sweep_file(**changes))
    assert not (tmp_path / "sweep").exists()


def test_the_run_s_own_start_as_encoder_is_named_for_the_evaluation(sweep_file, tiny_policy_folder):
    recipe = {"encoder": "policy"}
    start = f"policy:{tiny_policy_folder}"
    sweep, _ = read_sweep(sweep_file(recipe=recipe))
    assert sweep.evaluation.encoder == start
    for heldout in (start, "policy"):
        given = {"split": "train", "encoder": "hashed", "heldout_encoder": heldout}
        with pytest.raises(RecipeError, match=f"arm 'reward-only': heldout_encoder: .* got '{start}' beside"):
            read_sweep(sweep_file(recipe=recipe, evaluation=given))
    sweep, _ = read_sweep(sweep_file(recipe={"encoder": "hashed", "heldout_encoder": "policy"}))
    assert sweep.evaluation.heldout_encoder == start


@pytest.mark.parametrize("alpha", [1, 1.0], ids=["whole", "with a point"])
def test_a_run_is_one_however_its_alpha_is_written(sweep_file, alpha):
    ways = [
        sweep_file(arms={"dqo": {}}, alphas=[1, alpha], seeds=[0, 0]),
        sweep_file(arms={"dqo": {}}, alphas=[alpha], seeds=[0]),
        sweep_file(arms={"dqo": {"alpha": alpha}}, alphas=None, seeds=[0]),
        sweep_file({"alpha": alpha}, arms={"dqo": {}}, alphas=None, seeds=[0]),
    ]
    for way in ways:
        sweep, _ = read_sweep(way)
        assert [run.name for run in sweep.runs if run.arm == "dqo"] == ["dqo-alpha1-seed0"]


def test_an_empty_section_of_an_arm_takes_back_the_base_s(sweep_file):
    arms = {"lora": {}, "full": {"lora": {}}, "null": {"lora": None}, "other": {"lora": {}, "lora.r": 8}}
    sweep, _ = read_sweep(sweep_file({"lora": {"r": 2, "alpha": 4}}, arms=arms, alphas=None, seeds=[0]))
    found = {run.arm: {k: v for k, v in run.settings.items() if k.startswith("lora.")} for run in sweep.runs}
    assert found == {"base": {}, "lora": {"lora.r": 2, "lora.alpha": 4}, "full": {}, "null": {}, "other": {"lora.r": 8}}


def test_the_evaluation_can_do_without_the_base_s_heldout_encoder(sweep_file):
    base = {"heldout_encoder": "hashed:32"}
    given = yaml.safe_load(Path(sweep_file()).read_text())["evaluation"]
    judges = [read_sweep(sweep_file(base, evaluation=given | more))[0].evaluation.heldout_encoder
              for more in ({}, {"heldout_encoder": None}, {"heldout_encoder": "hashed:16"})]  # fmt: skip
    assert judges == ["hashed:32", None, "hashed:16"]


def test_unknown_arm_on_the_command_line(sweep_file, refused):
    assert "--only 'dqq': expected one of the arms base, reward-only, dqo" in refused(sweep_file(), "--only", "dqq")


def test_each_job_has_its_threads_and_device(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 13)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    environments = sweep_command.environments(jobs=3)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["2", "5", "2"]
    assert environments[0]["OMP_NUM_THREADS"] == "4"
    assert sweep_command.environments(jobs=20)[19]["OMP_NUM_THREADS"] == "1"
    assert sweep_command.environments(jobs=1)[0]["CUDA_VISIBLE_DEVICES"] == "2", "one per process"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    alone = {"OMP_NUM_THREADS": "13", "MKL_NUM_THREADS": "13"}
    assert sweep_command.environments(jobs=1) == [alone], "one job at a time has all processors"


@pytest.mark.slow
def test_a_run_killed_in_training_resumes_from_its_checkpoint(sweep_file, tmp_path, capsys):
    file = sweep_file(
        recipe={"reward": "killed_at_the_fourth_call", "trainer": {"max_steps": 5}},
        arms={"dqo": {"alpha": 0.5}}, alphas=None, seeds=[0], base_model=False,
    )  # fmt: skip
    assert main(["sweep", file]) == 1
    assert "failed: dqo-alpha0.5-seed0: training: its process was ended by SIGKILL" in capsys.readouterr().err
    assert main(["sweep", file, "--dry-run"]) == 0
    assert "dqo-alpha0.5-seed0  training to be continued from checkpoint-2" in capsys.readouterr().out
    assert main(["sweep", file]) == 0
    run = tmp_path / "sweep" / "runs" / "dqo-alpha0.5-seed0"
    assert "continuing from" in (run / "train.log").read_text()
    rows = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == [1, 2, 3, 4, 5]
    results = json.loads((tmp_path / "sweep" / "results.json").read_text())
    assert results["points"][0]["metrics"]["vendi_1"]["mean"] >= 1
    assert results["hypervolume"]["dqo"]["mean"] >= 0


def test_a_package_needed_for_the_results_is_asked_for_before_the_first_run(sweep_file, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "moocore", None)
    assert refused(sweep_file()).endswith("needs the package 'moocore'; run `pip install -e '.[report]'`.")
