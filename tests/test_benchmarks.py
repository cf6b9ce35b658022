"""The programs of benchmarks: the step benchmark on a tiny policy, counting by hand, the footprint of a prompt."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from count import figures, missed

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def job(tiny_policy_folder):
    from measurements import Job, Shape

    return Job(
        "stock", Shape(9, 7, 4), prompts=2, micro=4, model=str(tiny_policy_folder), encoder="hashed", stage="screen"
    )


@pytest.mark.parametrize(
    ("arm", "changes"),
    [
        ("stock", {"micro": 2}),
        ("stock", {"checkpointing": True, "dtype": "bf16"}),
        ("unshared", {}),
        ("shared", {}),
    ],
)
def test_every_arm_decodes_the_whole_length(job, arm, changes):
    from worker import measure

    result = measure(replace(job, arm=arm, **changes))
    assert result["lengths"] == [7, 7]
    assert len(result["step_s"]) == 1
    assert result["step_s"][0] > 0
    assert result["tokens_per_s"] == pytest.approx(2 * 4 * 7 / result["step_s"][0])
    assert result["peak_mb"] > 50
    if arm == "stock":
        assert result["spans"] == {}
    else:
        inside = ("time/embed", "time/credit", "time/generate")
        assert 0 < sum(result["spans"][name] for name in inside) < result["step_s"][0]


def test_completions_that_end_early_are_refused(job, monkeypatch):
    import worker

    def always_end(model, tokenizer):
        model.generation_config.eos_token_id = list(range(len(tokenizer)))

    monkeypatch.setattr(worker, "never_end", always_end)
    with pytest.raises(SystemExit, match="completions of 7, but the host counted"):
        worker.measure(job)


def test_a_measurement_is_a_process_and_is_not_repeated(job, tmp_path, monkeypatch):
    import measurements

    kept = measurements.Measurements(tmp_path / "kept.jsonl")
    result = kept.take(job)
    assert result["lengths"] == [7, 7]
    with kept.path.open("a") as file:
        file.write('{"key": "torn')
    monkeypatch.setattr(measurements, "run_worker", lambda job: pytest.fail("measured again"))
    again = measurements.Measurements(kept.path)
    assert again.take(job) == result
    assert json.loads(kept.path.read_text())["job"] == json.loads(job.to_json())
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        again.take(replace(job, seed=1))


class Table:
    """Stands for Measurements: step time and memory by (rows a pass, checkpointing, engine)."""

    def __init__(self, table):
        self.table, self.taken = table, []

    def known(self, job):
        return None

    def take(self, job):
        self.taken.append((job.micro, job.checkpointing, job.engine))
        value = self.table[self.taken[-1]]
        return {"error": "no memory"} if value is None else {"step_s": [value[0]], "peak_mb": value[1]}


def test_stock_is_taken_at_its_fastest_and_at_its_leanest(job):
    from comparison import Grid, screen

    table = Table({
        (1, False, "generate"): (10.5, 400), (4, False, "generate"): (10.0, 900), (8, False, "generate"): None,
        (1, True, "generate"): (13.0, 300), (4, True, "generate"): (11.5, 350), (8, True, "generate"): (12, 500),
        (4, False, "continuous"): (14.0, 200),
    })  # fmt: skip
    fastest, leanest, tried = screen(table, job, Grid(micro=(1, 4, 8, 16)))
    assert (fastest.micro, fastest.checkpointing, fastest.engine) == (4, False, "generate")
    assert (leanest.micro, leanest.checkpointing, leanest.engine) == (1, False, "generate")
    assert len(tried) == 7
    assert [result.get("error") for result in tried.values()].count("no memory") == 1


def test_an_engine_that_wins_is_measured_at_the_settings_near_the_fastest(job):
    from comparison import Grid, screen

    table = Table({
        (1, False, "generate"): (10.2, 400), (4, False, "generate"): (10.0, 900), (8, False, "generate"): (30, 100),
        (4, False, "continuous"): (5.0, 950), (1, False, "continuous"): (5.3, 450),
    })  # fmt: skip
    fastest, leanest, _ = screen(table, job, Grid(micro=(1, 4, 8), checkpointing=(False,)))
    assert (fastest.micro, fastest.engine) == (4, "continuous")
    assert (leanest.micro, leanest.engine) == (1, "continuous")
    assert (8, False, "continuous") not in table.taken


def test_a_short_comparison_takes_stock_as_it_was_screened(job):
    from comparison import Grid, compare

    parts = {"spans": {"time/embed": 0.1, "time/credit": 0.1}}

    class Kept(Table):
        def take(self, job):
            return super().take(job) | parts

    table = Kept({(1, False, "generate"): (8.0, 400), (4, False, "generate"): (10.0, 900)})
    several = replace(job, steps=2)  # stock is screened with one step all the same
    found = compare(table, several, Grid(micro=(1, 4), checkpointing=(False,), engines=()), repeats=0)
    assert table.taken == [(m, False, "generate") for m in (1, 4, 4)]  # two of stock, then ours
    stock, shared = found["rows"]
    assert (stock["step_s"], shared["step_s"]) == (8, 10)
    assert shared["speedup"] == pytest.approx(0.8)
    assert shared["diversity_share"] == pytest.approx(0.02)
    assert found["memory_against_leanest"] == pytest.approx(900 / 400)


def test_without_cuda_the_card_benchmark_says_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = subprocess.run([sys.executable, FOLDER / "gpu.py"], capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.strip() == (
        "expected a CUDA device, but torch sees none; run this where there is one, or --sizes toy here."
    )


def test_the_card_benchmark_compares_equal_losses_on_a_toy(tmp_path, monkeypatch, capsys):
    import torch

    import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "new" / "gpu.json"
    gpu.main(["--sizes", "toy", "--shapes", "40,9,4", "5,12,2", "--repeats", "1", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["arm"] for row in rows] == ["TRL, sdpa", "packed, dense"] * 4
    for theirs, ours in zip(rows[::2], rows[1::2], strict=True):
        assert (theirs["shape"], theirs["checkpointing"]) == (ours["shape"], ours["checkpointing"])
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["gradient"] == pytest.approx(theirs["gradient"], rel=1e-4)
        assert theirs["gradient"] > 1e-3
        assert ours["update_s"] > 0
    printed = capsys.readouterr().out
    assert printed.count("packed, dense") == 4
    assert printed.endswith(f"done; written to {out}\n")

    gpu.main(["--sizes", "toy", "--limit", "0", "--out", str(out)])
    assert json.loads(out.read_text())["rows"] == []
    assert "stopped for the time limit" in capsys.readouterr().out


def test_the_card_benchmark_packs_by_blocks_where_its_arm_says_so(monkeypatch):
    import torch
    from torch.nn.attention import flex_attention as flex

    import gpu
    from dqo.integrations.trl.fast import attention
    from measurements import Shape

    masks = []

    def attend(query, key, value, mask, scaling):
        masks.append(mask.shape)
        return attention._attend(query, key, value, mask, scaling)

    monkeypatch.setattr(attention, "_attend_compiled", attend)
    monkeypatch.setattr(flex, "_validate_device", lambda *states: None)
    model, shape = gpu.build("toy", "cpu"), Shape(9, 200, 3)
    rows = [gpu.measure(model, arm, shape, checkpointing=False, repeats=1) for arm in (gpu.TRL, gpu.DENSE, gpu.BLOCKS)]
    assert set(masks) == {(1, 1, 8 + 3 * 200, 8 + 3 * 200)}, "the group in one row"
    for row in rows:
        assert row["loss"] == pytest.approx(rows[0]["loss"], rel=1e-5)
        assert row["gradient"] == pytest.approx(rows[0]["gradient"], rel=1e-4)
    fast, failed = rows[0] | {"size": "toy", "update_s": 2.0}, {**rows[0], "size": "toy", "error": "out of memory"}
    assert "4.00x" in gpu.line_of(rows[2] | {"size": "toy", "update_s": 0.5}, [fast, failed])
    assert gpu.line_of(failed, [fast, failed]).endswith("out of memory")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu.BLOCKS in gpu.arms_on("cuda")


# The counting script on a tree of three files whose figures were counted by hand.
SOURCES = {
    "loose.py": '''"""A module
of two lines."""

# why
import dqo.core.volume


def check_size(n):
    """Says no."""
    if n < 1:
        raise ValueError(
            f"expected 1 or more, got {n}"
        )


def double(n):  # not a whole line
    assert n
    return 2 * n
''',
    "core/__init__.py": "from dqo.core.volume import A\n",
    "core/volume.py": "A = '''\ntext\n'''\n",
}


def test_figures_are_those_counted_by_hand():
    found = figures(SOURCES)
    assert (found["files"], found["lines"], found["code lines"]) == (3, 22, 9 + 1 + 3)
    assert found["statements"] == (1 + 1 + 4 + 3) + 1 + 1
    assert (found["docstrings, % of lines"], found["comment lines, % of lines"]) == (13.6, 4.5)  # 3 and 1 of 22
    assert found["checking code, % of code lines"] == 46.2  # 5 lines of check_size and the assert, of 13
    assert (found["lines of the longest function"], found["its place"]) == (6, "loose.py:check_size")
    assert (found["loose modules at the top"], found["code lines beside the paper"]) == (1, 4)
    assert found["files under 100 lines with one importer"] == 0, "volume.py has two, loose.py none"


def test_a_rule_in_a_table_is_checking_code_too():
    source = """def _contradictions(self):
    yield self.a and self.b, "a and b"


def make(a):
    refuse([
        (a, "no a"),
    ])
    return a
"""
    found = figures({"settings/a.py": source})
    assert found["checking code, % of code lines"] == 71.4  # 2 lines of the generator and 3 of the call, of 7


def test_a_missed_budget_is_named():
    sentences = missed(figures(SOURCES))
    assert [sentence.split(":")[0] for sentence in sentences] == [
        "rooms beside the paper not found", "loose modules at the top", "checking code, % of code lines"
    ]  # fmt: skip


@pytest.mark.slow
def test_a_prompt_passes_the_mathematics_in_the_step_and_the_recipe_before():
    done = subprocess.run(
        [sys.executable, FOLDER / "footprint.py", "--list"], capture_output=True, text=True, check=True
    )
    titles = ("start-up", "first step", "one prompt", "imported")
    counts, files, title = {}, {}, ""
    for line in done.stdout.splitlines():
        if line.startswith(titles) and line.endswith(" files"):
            title = next(name for name in titles if line.startswith(name))
            counts[title], files[title] = int(line.split()[-2]), set()
        elif line.startswith("    "):
            files[title].add(line.strip())
    assert counts == {name: len(those) for name, those in files.items()}
    assert {"core/kernels.py", "core/advantage.py"} <= files["first step"]
    assert "cli/main.py" in files["start-up"] - files["first step"]
    assert files["one prompt"] == files["start-up"] | files["first step"]
    assert files["one prompt"] < files["imported"], "no file is called that is not imported, and some are not called"


def test_the_scale_of_an_evaluation_is_a_table_of_stages(tmp_path, monkeypatch, capsys):
    import evaluation_scale

    flags = ["--prompts", "12", "--n", "5", "--words", "8", "--maps", "2", "--runs", "2", "--json", str(tmp_path / "t")]
    monkeypatch.setattr(sys, "argv", ["evaluation_scale.py", *flags])
    monkeypatch.setattr(evaluation_scale, "PEAK_MB", 10**6)  # the peak is that of all tests before
    evaluation_scale.main()
    table = json.loads((tmp_path / "t").read_text())["stages"]
    of_runs = [f"{what} run{i}" for i in (0, 1) for what in ("making", "reading", "evaluating")]
    assert list(table) == [*of_runs, "report", "page"]
    assert all(table[name]["processor_s"] >= 0 and table[name]["peak_MB"] > 100 for name in of_runs)
    assert 0.5 < table["page"]["MB"] < 2
    assert "page: " in capsys.readouterr().out
    table["evaluating run1"]["processor_s"] = 299.0
    table["reading run1"]["processor_s"] = 2.0
    table["page"]["MB"] = 15.1
    assert evaluation_scale.missed(table) == [
        "expected at most 300 seconds of processor to read and evaluate a run, got 301.0",
        "expected at most 15 MB of page, got 15.1",
    ]
    first, second = (list(evaluation_scale.made_up(3, 4, 8, seed)) for seed in (0, 1))
    assert first == list(evaluation_scale.made_up(3, 4, 8, 0))
    assert [group.prompt for group in first] == [group.prompt for group in second], "the runs answer the same prompts"
    assert first[0].responses != second[0].responses


def test_both_heads_are_measured_alone_and_in_an_update(monkeypatch, capsys, tiny_policy_folder):
    import head

    monkeypatch.setattr(head, "DEFAULT_POLICY", str(tiny_policy_folder))
    monkeypatch.setattr(head, "V", 17)  # of the tiny policy
    monkeypatch.setattr(head, "peak_mb", lambda *job: 0.0)
    flags = ["--rows", "5", "--update", "6,4,3", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["head.py", *flags])
    head.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["5 bf16", "5 float32", "6,4,3 bf16", "6,4,3 float32"]
    assert all("TRL " in line and "ours " in line and line.endswith("x") for line in lines)
