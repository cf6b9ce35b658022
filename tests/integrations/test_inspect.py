"""The reducers and the scorer in Inspect's own `eval`, with its mock model and epochs; values by hand."""

import math
import re
from itertools import cycle
from pathlib import Path

import pytest

pytest.importorskip("inspect_ai", reason="inspect_ai is not installed: pip install -e '.[inspect]'")

from inspect_ai import Epochs, Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import Score, accuracy, pattern, scorer

from dqo.integrations.inspect import distinct_right, response, vendi

SAID = {
    "A warm colour?": ["say: red", "say: orange", "say: red", "<think>cold</think>say: blue"],
    "A cold colour?": ["say: blue", "say: blue", "no", "no"],
}
SAMPLES = [
    Sample(input="A warm colour?", target=["red", "orange"], id="warm"),
    Sample(input="A cold colour?", target=["blue"], id="cold"),
]


@scorer(metrics=[accuracy()])
def silent():
    async def score(state, target):
        return Score(value="C")

    return score


def evaluated(tmp_path, scorers, reducers, epochs=4):
    """Scorer and reducer -> sample -> value, and the log, of an evaluation."""
    texts = {prompt: cycle(said) for prompt, said in SAID.items()}

    def answer(messages, *rest):
        said = ModelOutput.from_content("mockllm/model", next(texts[messages[-1].text]))
        said.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # Inspect would load a tokenizer
        return said

    task = Task(dataset=SAMPLES, scorer=scorers, epochs=Epochs(epochs, reducers))
    model = get_model("mockllm/model", custom_outputs=answer, memoize=False)
    (log,) = eval(task, model=model, log_dir=str(tmp_path), display="none", max_connections=1)
    assert log.status == "success", log.error
    found = {(one.scorer, one.reducer): {s.sample_id: s.value for s in one.samples} for one in log.reductions}
    return found, log


def test_distinct_right_answers_and_vendi_over_epochs(tmp_path):
    reducers = ["mean", vendi("hashed:64"), distinct_right(), distinct_right(k=2)]
    found, log = evaluated(tmp_path, [pattern(r"say: (\w+)"), response()], reducers)
    assert found["pattern", "mean"] == {"warm": 0.75, "cold": 0.5}
    assert found["pattern", "dqo/distinct_right"] == {"warm": 2, "cold": 1}
    # Of 6 pairs of epochs 5 hold red and 3 orange; 5 hold blue.
    assert found["pattern", "dqo/distinct_right_2"] == pytest.approx({"warm": 8 / 6, "cold": 5 / 6})
    # Two copies and two other words, hashed to nearly orthogonal rows: shares 1/2, 1/4, 1/4. Two copies alone: one.
    assert found["pattern", "dqo/vendi"] == pytest.approx({"warm": 2 * math.sqrt(2), "cold": 1}, abs=0.05)
    assert found["response", "mean"] == {"warm": 1, "cold": 1}
    assert found["response", "dqo/distinct_right"] == {"warm": 3, "cold": 2}
    shown = {(one.name, one.reducer): {name: m.value for name, m in one.metrics.items()} for one in log.results.scores}
    assert shown["pattern", "dqo/distinct_right"]["accuracy"] == 1.5, "the mean over samples, by the scorer's metric"
    answers = {sample.scores["response"].answer for sample in log.samples}
    assert answers == {"say: red", "say: orange", "say: blue", "no"}, "without the reasoning trace"


def test_reducers_by_name_as_on_the_command_line(tmp_path):
    found, _ = evaluated(tmp_path, [pattern(r"say: (\w+)")], ["dqo/distinct_right_2", "dqo/distinct_right_4"])
    assert found["pattern", "dqo/distinct_right_4"] == {"warm": 2, "cold": 1}


def test_what_cannot_be_measured_has_no_value_and_says_why(tmp_path):
    reducers = [vendi("hashed:64"), distinct_right(), distinct_right(k=3)]
    _, log = evaluated(tmp_path, [silent(), response()], reducers, epochs=2)
    why = {(one.scorer, one.reducer): one.samples[0] for one in log.reductions}
    for reducer in ("dqo/vendi", "dqo/distinct_right"):
        assert math.isnan(why["silent", reducer].value)
        assert "put the scorer dqo.integrations.inspect.response beside" in why["silent", reducer].explanation
    assert why["response", "dqo/distinct_right_3"].explanation == "2 epochs are fewer than k = 3"


def test_the_task_of_the_docs_is_one():
    page = Path(__file__).parents[2] / "docs/guides/lm_eval_inspect.md"
    names = {}
    exec(re.search(r"```python\n(.*?)```", page.read_text(), flags=re.S)[1], names)
    assert names["colours"]().epochs == 8
