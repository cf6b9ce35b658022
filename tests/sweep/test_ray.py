"""Jobs on a Ray cluster of two nodes, in real processes; the scheduler is the one of `test_schedule.py`."""

import os
import signal
import threading
import time

import pytest

from dqo.errors import DQOError
from dqo.sweep.launch import Resources, connect_ray
from dqo.sweep.schedule import Job, Stage, run_jobs

pytest.importorskip("ray", reason="needs the extra ray")


@pytest.fixture(scope="module")
def cluster():
    """The address of two nodes of two processors."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2, resources={"big": 1})
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def connect(cluster):
    """Connects with resources; a process has one connection at a time."""
    import ray

    yield lambda **resources: connect_ray(cluster, Resources(**resources))
    ray.shutdown()


def stage(folder, name, code):
    """A stage of shell code that is done when the file of its name is there."""
    return Stage(name, ["sh", "-c", f"cd {folder} && {code}"], folder / f"{name}.log", (folder / name).exists, folder)


def job(tmp_path, name, **stages):
    folder = tmp_path / name
    return Job(name, folder, [stage(folder, key, code) for key, code in stages.items()])


def test_jobs_run_on_both_nodes_at_once_and_stages_in_order(tmp_path, connect):
    """Each waits for the other's file, and a node has room for one."""
    wait = "touch here; i=0; until test -e ../{}/here; do sleep 0.1; i=$((i+1)); test $i -lt 200 || exit 1; done; "
    jobs = [
        job(tmp_path, name, train=wait.format(other) + "echo $OMP_NUM_THREADS > train", eval="cp train eval")
        for name, other in ("ab", "ba")
    ]
    said = []
    assert run_jobs(jobs, [{}, {}], said.append, connect(num_cpus=2)) == {}
    assert {(tmp_path / name / "eval").read_text().strip() for name in "ab"} == {"2"}, "a thread per processor"
    assert any(line.startswith("a: train handed to Ray (log: ") for line in said)


def test_a_crash_stops_its_own_run_only_and_nothing_done_is_done_again(tmp_path, connect):
    jobs = [
        job(tmp_path, "refused", train="echo noise; echo 'dqo: error: alpha must be >= 0, got -1.'; exit 2"),
        job(tmp_path, "killed", train="kill -9 $$"),
        job(tmp_path, "fine", train="echo once >> train"),
    ]
    launch = connect()
    for _ in range(2):
        errors = run_jobs(jobs, [{}] * 3, lambda line: None, launch)
        assert errors["refused"].startswith("train: alpha must be >= 0, got -1. (log: ")
        assert "ended by SIGKILL" in errors["killed"]
        assert set(errors) == {"refused", "killed"}
    assert (tmp_path / "fine" / "train").read_text() == "once\n"


def test_a_signal_is_passed_on_and_a_run_that_waits_for_room_is_taken_back(tmp_path, connect):
    saving = "trap 'echo saved > train; exit 143' TERM; touch begun; while true; do sleep 0.1; done"
    jobs = [job(tmp_path, name, train=saving) for name in ("first", "second")]  # of which one has room
    launch, said = connect(num_cpus=2, resources={"big": 1}), []

    def interrupt():
        while not any((tmp_path / name / "begun").exists() for name in ("first", "second")):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, [{}, {}], said.append, launch)
    assert sum((tmp_path / name / "train").exists() for name in ("first", "second")) == 1
    assert sum((tmp_path / name / "begun").exists() for name in ("first", "second")) == 1
    assert not [line for line in said if "FAILED" in line]


def test_resources_that_no_machine_has_are_refused(connect):
    """Each node has two processors; together they have four, which no process can use."""
    with pytest.raises(DQOError, match=r"ask for \{'CPU': 3.0\} on one machine, which none of the 2 of the cluster"):
        connect(num_cpus=3)
    with pytest.raises(DQOError, match="'huge': 1"):
        connect(resources={"huge": 1})


def test_an_address_where_nothing_answers_is_refused():
    with pytest.raises(
        DQOError, match=r"--ray '127\.0\.0\.1:1': expected the address of a running cluster, got: .*\w; see"
    ):
        connect_ray("127.0.0.1:1", Resources())
