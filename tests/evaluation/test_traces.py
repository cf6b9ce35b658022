"""Reasoning traces in an evaluation: what is scored and measured, what the files keep, what the notes say."""

import pytest

from dqo.evaluation.engines import Asked, LocalModel
from dqo.evaluation.metrics import measure
from dqo.evaluation.quality import judged
from dqo.evaluation.run import evaluate
from dqo.evaluation.sampling import Form, sample_from
from dqo.files.records import Group, Prompt, read_groups
from dqo.report.charts import semantic_maps
from dqo.report.sources import read_runs

TRACED = ["<think>red green</think>blue", "cyan pink\n</think>\n\nblue", "<thinking>pink</thinking>blue"]


def group(responses, finish=None, **meta):
    return Group("one", "name a colour", [], responses, finish or ["eos"] * len(responses), None, meta)


def is_blue(completions, **columns):
    return [float(text == "blue") for text in completions]


def test_three_equal_answers_behind_three_traces_are_one(words, tmp_path):
    document = evaluate([group(TRACED)], encoder=words, reward=is_blue, out=tmp_path)
    metrics = {name: value and value["mean"] for name, value in document["metrics"].items()}
    assert metrics["quality"] == metrics["pass@k"] == 1.0
    assert metrics["vendi_1"] == pytest.approx(1.0)
    assert metrics["words"] == 1.0
    assert metrics["distinct_1"] == pytest.approx(1 / 3)
    assert document["corpus"]["distinct_1"] == pytest.approx(1 / 3)
    assert read_groups(tmp_path / "groups.jsonl")[0].responses == TRACED, "kept as they were sampled"
    [note] = [note for note in document["notes"] if "trace" in note]
    assert note.startswith("100.0% of 3 responses have a reasoning trace")
    assert "0.0% never close it" in note
    again = evaluate(read_groups(tmp_path / "groups.jsonl"), encoder=words, out=tmp_path / "again")
    assert again["metrics"]["vendi_1"]["mean"] == pytest.approx(1.0)


def test_traces_may_be_measured_and_markers_may_be_others(words, tmp_path):
    off = evaluate([group(TRACED)], encoder=words, reward=is_blue, out=tmp_path, trace_markers="off")
    assert off["metrics"]["quality"]["mean"] == 0.0
    assert off["metrics"]["words"]["mean"] == pytest.approx(7 / 3), "2, 4 and 1 words stand between white space"
    assert off["trace_markers"] == "off"
    assert not any("trace" in note for note in off["notes"])
    own = [group(["<plan>red</plan>blue", "<think>red</think>blue"])]
    document = evaluate(own, encoder=words, reward=is_blue, out=tmp_path, trace_markers="<plan>...</plan>")
    assert document["metrics"]["quality"]["mean"] == 0.5


def test_a_trace_that_was_cut_off_is_no_answer(words, tmp_path):
    cut_off = group(["<think>blue", "<think>red</think>blue"], ["length", "eos"])
    document = evaluate([cut_off], encoder=words, reward=is_blue, out=tmp_path)
    assert document["metrics"]["quality"]["mean"] == document["metrics"]["empty"]["mean"] == 0.5
    assert document["metrics"]["truncated"]["mean"] == 0.5
    assert any("50.0% never close it" in note for note in document["notes"])


def test_a_prompt_that_opens_the_trace_is_known_or_inferred():
    mixed = [group(["red</think>blue", "cyan</think>blue", "blue because"], ["eos", "eos", "length"])]
    assert judged(mixed)[0].responses == ["blue", "blue", ""], "most that ended closed what they had not opened"
    cut_off = [group(["blue because"], ["length"])]
    assert judged(cut_off)[0].responses == ["blue because"]
    [known] = judged(cut_off, sampling={"prompt_opens_trace": True})
    assert (known.responses[0], known.responses[0].unclosed) == ("", True)
    plain = [Group("one", "Think first. <think>", [], ["blue because"], ["length"], None, {})]
    assert judged(plain)[0].responses == [""]
    one_mention = [group(["It ends at </think> I believe", "blue", "red"])]
    assert judged(one_mention)[0].responses[1:] == ["blue", "red"]
    read_already = {"form": "verbalized:5", "prompt_opens_trace": True}
    assert judged([group(["blue"])], sampling=read_already)[0].responses == ["blue"]


def test_lists_of_strings_are_measured_without_traces():
    found = measure({"name a colour": TRACED}, encoder="hashed")
    assert found["vendi_1"]["mean"] == pytest.approx(1.0)


def test_drafts_within_a_trace_are_no_verbalized_responses():
    call = "<think><text>draft</text></think><response><text>red</text></response>"
    assert Form(2).read((call, "eos")) == [("red", "eos")]
    assert Form(2).read(("<text>draft</text> and so", "length"), in_trace=True) == []


def test_a_local_model_keeps_markers_and_says_whether_its_prompts_open_a_trace(tiny_policy, tiny_tokenizer):
    def settings(template, **options):
        tokenizer = type(tiny_tokenizer)(
            tokenizer_object=tiny_tokenizer.backend_tokenizer, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
        )
        tokenizer.chat_template = template
        model = LocalModel(tiny_policy, tokenizer, Asked(seed=0, max_new_tokens=4, temperature=1.0, **options))
        groups = sample_from(model, [Prompt("one", "the dog", [], {})], 2)
        assert len(groups[0].responses) == 2
        return model.settings()

    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}user {% if think %}red{% endif %}"
    assert not settings(template, trace_markers="red...blue")["prompt_opens_trace"]
    found = settings(template, trace_markers="red...blue", chat_template_kwargs={"think": True})
    assert found["prompt_opens_trace"]
    assert found["chat_template_kwargs"] == {"think": True}


def test_maps_of_a_report_show_what_was_measured(words, tmp_path):
    evaluate([group(TRACED)], encoder=words, reward=is_blue, out=tmp_path / "eval")
    seen = []

    def encoder(texts):
        seen.extend(texts)
        return words(texts)

    semantic_maps(read_runs([tmp_path / "eval"]), encoder, 100)
    assert seen == ["blue"] * 3
