"""A task in lm-eval's own `simple_evaluate`, from its YAML to the table: values by hand, and those of `measure`."""

import json

import pytest

pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install -e '.[lm-eval]'")

from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from dqo.errors import RecipeError
from dqo.evaluation import measure
from dqo.evaluation.definitions import headline, shown_in

TASK = r"""
task: colours
class: !function dqo.integrations.lm_eval.DiverseTask
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/colours.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{right}}"
repeats: 4
generation_kwargs: {do_sample: true, temperature: 1.0, max_gen_toks: 8, until: ["\n"]}
filter_list:
  - name: word
    filter:
      - {function: regex, regex_pattern: 'say: (\w+)'}
      - {function: lowercase}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
dqo: {encoder: "hashed:64"}
"""
DOCS = [{"question": "A warm colour?", "right": "red"}, {"question": "A cold colour?", "right": "blue"}]
SAID = {
    "A warm colour?": ["say: pink", "say: Red", "<think>cold</think>say: red", "say: blue"],
    "A cold colour?": ["say: blue", "say: blue", "no", "no"],
}


class Scripted(LM):
    """Answers each repeat of a prompt with its next text."""

    def generate_until(self, requests, disable_tqdm=False):
        said = {prompt: iter(texts) for prompt, texts in SAID.items()}
        return [next(said[request.args[0]]) for request in requests]

    def loglikelihood(self, requests, disable_tqdm=False):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """The results of the task, its YAML changed by pairs of texts."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "colours.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))

    def run(*changes):
        text = TASK.replace("FOLDER", str(tmp_path))
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        (tmp_path / "colours.yaml").write_text(text)
        tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
        return simple_evaluate(model=Scripted(), tasks=["colours"], task_manager=tasks, bootstrap_iters=0)

    return run


def test_repeats_are_measured_beside_the_tasks_own_metric(evaluated):
    found = evaluated()
    shown = found["results"]["colours"]
    assert shown["exact_match,word"] == 0.5, "lm-eval's own, of the first response"
    assert shown["quality,dqo"] == 0.5, "2 of 4 and 2 of 4: the metric of every response"
    assert shown["pass@2,dqo"] == pytest.approx(5 / 6), "1 of 6 pairs of each document has neither right one"
    assert shown["distinct_right@4,dqo"] == 1, "red and Red are one answer to the task's filter"
    assert "truncated,dqo" not in shown
    better = found["higher_is_better"]["colours"]
    assert (better["vendi_1"], better["self_bleu"], better["exact_match"]) == (True, False, True)
    rows = [row for row in found["samples"]["colours"] if row["filter"] == "dqo"]
    assert [row["distinct_right@1"] for row in rows] == [0.5, 0.5]
    assert rows[0]["resps"] == [SAID["A warm colour?"]]


def test_the_figures_are_those_of_measure_on_the_same_responses(evaluated):
    shown = evaluated()["results"]["colours"]
    rewards = {"A warm colour?": [0.0, 1.0, 1.0, 0.0], "A cold colour?": [1.0, 1.0, 0.0, 0.0]}
    expected = {name: value for name, value in measure(SAID, rewards, encoder="hashed:64").items() if value}
    ours = {name.removesuffix(",dqo"): value for name, value in shown.items() if name.endswith(",dqo")}
    ours = {name: value for name, value in ours.items() if "_stderr" not in name and "distinct_right" not in name}
    assert len(ours) > 15
    assert ours == pytest.approx({name: expected[name]["mean"] for name in ours})
    shown = {*headline(expected), *shown_in(expected, "report")}
    assert set(expected) - set(ours) == set(expected) - shown


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("repeats: 4", "repeats: 1"), r"'colours': expected output_type .* at least 2, got generate_until and 1; set"),
        (("dqo: {", "dqo: {n: 3, "), r"'colours', dqo: expected a known setting, got 'n'"),
        (('dqo: {', "dqo: {filter: words, "), r"`task 'colours', dqo.filter` must be one of word .*got 'words'"),
        (('dqo: {', "dqo: {metric: bleu, "), r"`task 'colours', dqo.metric` must be one of exact_match, got 'bleu'"),
    ],
)  # fmt: skip
def test_what_would_measure_nothing_is_refused_before_sampling(evaluated, change, said):
    with pytest.raises(RecipeError, match=said):
        evaluated(change)
