"""Two processes give the credits of one, through the trainer and through the drop-in, when groups straddle ranks."""

import json
import os
import sys
from pathlib import Path

import forking
import pytest
import torch

SCRIPT = Path(__file__).with_name("replayed_run.py")


def run(kind, processes, rows, policy, out):
    """Reward table of one step on `processes` processes with `rows` rows each."""
    # Without a GPU, accelerate starts several processes through --multi_gpu (its torchrun path) and settles on gloo.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--num_processes", str(processes), "--dynamo_backend", "no", *(["--multi_gpu"] if processes > 1 else [])]
    launch += ["--main_process_port", "0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    command = [*launch, str(SCRIPT), kind, str(rows), str(policy), str(out)]
    done = forking.run(command, capture_output=True, text=True, env=env, timeout=900, cwd=out.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trainer", "dropin"])
def test_credits_do_not_depend_on_the_number_of_processes(kind, tiny_policy_folder, tmp_path):
    one = run(kind, 1, 12, tiny_policy_folder, tmp_path / "one.json")
    two = run(kind, 2, 6, tiny_policy_folder, tmp_path / "two.json")  # rows 4..7 are split between the ranks
    assert one["names"] == two["names"] == ["parity", "diversity"]
    a, b = torch.tensor(one["rewards"]), torch.tensor(two["rewards"])
    assert a.shape == (12, 2)
    assert a[:, 1].std() > 0.01, "equal credits would make the next line vacuous"
    assert a[1, 1] == a[3, 1] < a[0, 1], "the duplicates of the first group earn less"
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_replaced_advantages_do_not_depend_on_the_number_of_processes(tiny_policy_folder, tmp_path):
    one = run("guarded", 1, 12, tiny_policy_folder, tmp_path / "one.json")
    two = run("guarded", 2, 6, tiny_policy_folder, tmp_path / "two.json")
    a, b = torch.tensor(one["rewards"]), torch.tensor(two["rewards"])
    assert a[:, 1].std() > 0.01, "equal shares would make the next line vacuous"
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    a, b = torch.tensor(one["advantages"]), torch.tensor(two["advantages"])
    assert a.shape == (12,)
    assert a.std() > 0.1
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_ppo_trains_the_same_policy_and_critic_on_any_number_of_processes(tiny_policy_folder, tmp_path):
    one = run("ppo", 1, 12, tiny_policy_folder, tmp_path / "one.json")["norms"]
    two = run("ppo", 2, 6, tiny_policy_folder, tmp_path / "two.json")["norms"]
    assert one["critic.head.weight"] > 1e-3, "the critic has not learned"
    for name, norm in one.items():
        assert two[name] == pytest.approx(norm, rel=1e-5, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["evaluated-trainer", "evaluated-dropin"])
def test_evaluation_in_groups_of_another_size_with_an_uneven_last_batch(kind, tiny_policy_folder, tmp_path):
    """Five prompts in groups of four are 20 rows: a batch of 12, then one of 8, which two processes fill up to 12."""
    one = run(kind, 1, 12, tiny_policy_folder, tmp_path / "one.json")["tables"]
    two = run(kind, 2, 6, tiny_policy_folder, tmp_path / "two.json")["tables"]
    assert [len(table) for table in one] == [12, 8]
    assert [len(table) for table in two] == [12, 12]
    for a, b in zip(map(torch.tensor, one), map(torch.tensor, two), strict=True):
        assert a[:, 1].std() > 0.01, "equal credits would make the next line vacuous"
        torch.testing.assert_close(a, b[: len(a)], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_partial_group_is_refused(tiny_policy_folder, tmp_path):
    with pytest.raises(AssertionError, match="must be divisible by num_generations"):
        run("trainer", 2, 3, tiny_policy_folder, tmp_path / "x.json")
