"""Diversity in verifiers, and so in prime-rl: an environment whose episode is a whole group of attempts at one task."""

import asyncio

import verifiers.v1 as vf
from pydantic import Field

from dqo.integrations.groups import Group, GroupScorer, GroupSettings
from dqo.models.chat import TraceMarkers, completion_text


class DiverseConfig(vf.EnvConfig):
    """Settings of `DiverseEnv`, under `env` in a TOML file and `--env.` on a command line."""

    agent: vf.AgentConfig = vf.AgentConfig()
    max_concurrent_agents: int | None = Field(None, ge=1)
    n: int = Field(8, ge=3)
    """Attempts at a task: the group. Of two, both credits are equal and cancel in the group mean."""
    dqo: GroupSettings = GroupSettings()
    """What diversity means, what measures it, and on which part of a reply."""


class DiverseEnv(vf.Env[DiverseConfig]):
    """Attempts a task n times in one episode, and adds to each attempt's rewards one named `diversity`.

    It holds what diversity changes in the task's own reward, so that the trace's `reward` is what is optimised. The
    credit and the group's numbers are metrics of the trace. A failed attempt takes no part.
    """

    async def start(self) -> None:
        """Loads the encoder before any rollout."""
        self._markers = TraceMarkers.parse(self.config.dqo.trace_markers)
        self._score = await asyncio.to_thread(GroupScorer, self.config.dqo, self.config.dqo.encoder_device)

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        """Attempts the task n times."""
        async with asyncio.TaskGroup() as attempts:
            for _ in range(self.config.n):
                attempts.create_task(agents.agent.run(task))

    async def finalize(self, task: vf.Task, episode: vf.Episode) -> None:
        """Scores the attempts together."""
        traces = [trace for trace in episode.traces if trace.ok]
        # A response that is alone has nobody to differ from: a constant credit would be a reward for surviving.
        if len(traces) < 2:
            return
        texts = [completion_text(trace.last_reply, self._markers) for trace in traces]
        group = Group(texts, [trace.reward for trace in traces], [trace.id for trace in traces], task.data.prompt_text)
        [scored] = await asyncio.to_thread(self._score, [group])
        for trace, before, after, credit in zip(traces, group.rewards, scored.shaped, scored.credit, strict=True):
            trace.record_reward("diversity", after - before)
            trace.record_metrics(
                {"diversity/credit": credit} | {f"diversity/{k}": v for k, v in scored.numbers.items()}
            )


__all__ = ["DiverseEnv"]
