"""Verbalized Sampling: what is asked, what is read of an answer, and what becomes of a model that does not comply."""

from dqo.evaluation.sampling import Form, Source, sample_from
from dqo.files.records import Prompt, read_groups

PROMPTS = [Prompt("one", "A colour?", [], {"k": 1}), Prompt("two", "A city?", [], {})]


def tagged(*texts):
    return "".join(f"<response><text>{text}</text><probability>0.1</probability></response>\n" for text in texts)


class Script(Source):
    """Answers by a function of prompt id and number of the call."""

    def __init__(self, answer):
        self.answer, self.calls = answer, []

    def settings(self):
        return {"model": "script"}

    def check(self, requests):
        assert all("Generate 3 responses" in request.message for request in requests)

    def draw(self, requests):
        self.calls += [(request.prompt_id, request.number) for request in requests]
        yield from ((request, (self.answer(request.prompt_id, request.number), "eos")) for request in requests)


def test_the_prompt_is_the_published_one():
    message = Form(5).message("Tell me a short story about a bear.")
    first, *_, question = message.split("\n")
    assert first == "<instructions>"
    assert "Generate 5 responses to the user query, each within a separate <response> tag." in message
    assert message.count("Randomly sample responses from the full distribution.\n</instructions>\n\n") == 1
    assert question == "Tell me a short story about a bear."
    assert "{braces} stay" in Form(2).message("{braces} stay")


def test_what_is_read_of_an_answer():
    read = Form(3).read
    assert read((tagged("red", " two\nlines ", "blue", "a fourth"), "eos")) == [
        ("red", "eos"), ("two\nlines", "eos"), ("blue", "eos"),
    ]  # fmt: skip
    assert read((tagged("red") + "<response><text>cut of", "length")) == [("red", "eos")]
    assert read(("<TEXT>upper</TEXT>", "eos")) == [("upper", "eos")]
    assert read(("Red, green, blue.", "eos")) == read((tagged(" "), "eos")) == []


def test_calls_go_on_until_there_are_enough(tmp_path):
    source = Script(lambda name, number: tagged(*(f"{name} {number} {i}" for i in range(3 if name == "one" else 1))))
    groups = sample_from(source, PROMPTS, 4, out=tmp_path, form=Form(3))
    assert source.calls == [("one", 0), ("one", 1), ("two", 0), ("two", 1), ("two", 2), ("two", 3)]
    assert groups[0].responses == ["one 0 0", "one 0 1", "one 0 2", "one 1 0"]
    assert groups[1].responses == [f"two {i} 0" for i in range(4)]
    assert groups[0].meta == {"k": 1, "sampling": {"form": "verbalized:3", "calls": 2, "responses": 6}}
    assert read_groups(tmp_path / "groups.jsonl") == groups
    again = Script(lambda name, number: 1 / 0)
    assert sample_from(again, PROMPTS, 4, out=tmp_path, form=Form(3)) == groups
    assert again.calls == []


def test_what_a_model_fails_to_give_counts_as_empty():
    source = Script(lambda name, number: tagged("only") if number == 0 else "I would rather not.")
    groups = sample_from(source, PROMPTS[:1], 5, form=Form(3))
    assert groups[0].responses == ["only", "", "", "", ""]
    assert groups[0].meta["sampling"] == {"form": "verbalized:3", "calls": 2 + 2 + 2, "responses": 1}
