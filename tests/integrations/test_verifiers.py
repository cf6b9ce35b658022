"""The environment in verifiers' own runner: a taskset, a harness that calls a local server, an episode as a group."""

import asyncio
import math
import sys

import pytest

pytest.importorskip("verifiers.v1", reason="verifiers is not installed: pip install -e '.[verifiers]'")

import verifiers.v1 as vf
from local_server import LocalServer, chat
from verifiers.v1.clients import ModelContext
from verifiers.v1.utils.loaders import load_environment, resolve_env_config

# A package of a user: its own environment comes first, so one more name in `__all__` is all that diversity needs.
TASKSET = """
import httpx
import verifiers.v1 as vf

from dqo.integrations.verifiers import DiverseEnv


class ColourData(vf.TaskData):
    right: list[str]


class ColourTask(vf.Task[ColourData]):
    @vf.reward
    async def is_right(self, trace: vf.Trace) -> float:
        return float(trace.last_reply.endswith(tuple(self.data.right)))


class Colours(vf.Taskset[ColourTask, vf.TasksetConfig]):
    def load(self):
        return [ColourTask(ColourData(idx=0, prompt="Name a colour.", right=["red", "blue"]), self.config.task)]


class InProcess(vf.Harness[vf.HarnessConfig]):
    EXECUTES_CODE = NEEDS_CONTAINER = False

    async def launch(self, ctx, trace, runtime, endpoint, secret, mcp_urls, data, tool_interception_url=None):
        body = {"model": ctx.model, "messages": [{"role": "user", "content": data.prompt}]}
        async with httpx.AsyncClient() as client:
            url, key = f"{endpoint}/chat/completions", {"Authorization": f"Bearer {secret}"}
            answer = await client.post(url, json=body, headers=key, timeout=30)
        return vf.ProgramResult(int(answer.status_code != 200), "", answer.text)


__all__ = ["Colours", "DiverseEnv", "InProcess"]
"""


@pytest.fixture
def episode(tmp_path, monkeypatch):
    """One episode of four attempts in which the server says these words, in this order."""
    (tmp_path / "colours.py").write_text(TASKSET)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("KEY", "none")

    def play(said, **dqo):
        said = iter(said)
        server = LocalServer(lambda path, body: chat(word) if isinstance(word := next(said), str) else word)
        config = resolve_env_config(
            {
                "taskset": {"id": "colours"},
                "agent": {"runtime": {"type": "subprocess"}},
                "n": 4,
                "max_concurrent_agents": 1,
                "dqo": {"encoder": "hashed:64"} | dqo,
            }
        )
        client = vf.EvalClientConfig(base_url=server.url, api_key_var="KEY")

        async def run():
            env = load_environment(config)
            async with env.serving():
                return await env.run_episode(next(iter(env.taskset.load())), ModelContext("m", client))

        try:
            return asyncio.run(run())
        finally:
            server.close()
            sys.modules.pop("colours")

    return play


def paid(trace):
    return {name: reward.value for name, reward in trace.rewards.items()}


def test_each_attempt_is_paid_its_credit(episode):
    found = episode(["red", "red", "<think>blue?</think>blue", "pink"], alpha=0.5)
    assert found.errors == []
    assert found.ok
    copy, alone = math.log(3 / 2), math.log(2)  # at ridge 1, of orthogonal words; hashed ones nearly are
    task, credit = [1, 1, 1, 0], [copy, copy, alone, alone]
    for trace, right, earned in zip(found.traces, task, credit, strict=True):
        assert paid(trace) == pytest.approx({"is_right": right, "diversity": 0.5 * earned}, abs=0.02)
        assert trace.metrics["diversity/credit"] == pytest.approx(earned, abs=0.02)
        assert trace.metrics["diversity/vendi"] == pytest.approx(2 * math.sqrt(2), abs=0.1)  # shares 1/2, 1/4, 1/4


def test_the_sum_is_the_shaped_reward_under_a_gate_too(episode):
    found = episode(["red", "red", "blue", "pink"], alpha=0.5, combine="gate", quality_threshold=0.5)
    assert paid(found.traces[3]) == {"is_right": 0, "diversity": 0}, "different and wrong earns nothing"
    assert paid(found.traces[2])["diversity"] == pytest.approx(0.5 * math.log(2), abs=0.01)


def test_a_failed_attempt_takes_no_part(episode):
    found = episode(["red", 400, "blue", "pink"])
    failed = [trace for trace in found.traces if not trace.ok]
    assert len(failed) == 1
    assert "diversity" not in failed[0].rewards
    assert [paid(trace)["diversity"] for trace in found.traces if trace.ok] == pytest.approx(
        [math.log(2)] * 3, abs=0.02
    )


def test_a_signal_that_the_trainer_would_not_see_is_refused(episode):
    with pytest.raises(Exception, match=r"dqo.diversity: expected one of none, dqo, .* got 'pass_at_k'"):
        episode([], diversity="pass_at_k", pass_k=2, quality_threshold=0.5)
