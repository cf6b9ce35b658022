import pytest

from dqo.files.records import Prompt
from dqo.rewards.calling import CheckedReward, RecordReward, task_quality
from dqo.tasks import load_task

PROMPT = Prompt("p-1", "Naïve “question”\u2028?", ["a", "b"], {"id": "p-1", "numbers": [2, 5, 8], "target": 24})


@pytest.fixture(scope="module")
def reward():
    task = load_task("countdown", train_size=2, dev_size=0, test_size=0)
    return RecordReward(CheckedReward(task_quality(task)), [PROMPT], eos_token_ids=[2, 9], name="quality")


def test_strings_conversations_and_ends(reward):
    right = "8 * (5 - 2)"
    completions = [right, [{"role": "assistant", "content": right}], right, right, "8 + 5"]
    completion_ids = [[4, 5, 2], [4, 9], [4, 2, 5], [], [3, 2]]  # the third goes on after the end, the fourth is empty
    rewards = reward(
        prompts=["ignored"] * 5,
        completions=completions,
        completion_ids=completion_ids,
        row=[0] * 5,
        trainer_state=None,
    )
    assert rewards == [1.0, 1.0, 0.0, 0.0, 0.1]
    assert reward.__name__ == "quality"
