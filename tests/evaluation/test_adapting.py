"""A server that refuses a parameter is adapted to once; Ctrl-C ends what is under way; no prompt ends a run."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import local_server
import pytest

from dqo.errors import EndpointError
from dqo.evaluation.engines import Asked, ServedModel
from dqo.evaluation.run import evaluate
from dqo.evaluation.sampling import Form, sample_from
from dqo.files.evaluation import read_settings
from dqo.files.records import Prompt, read_groups

PROMPTS = [Prompt(str(i), f"question {i}", [], {}) for i in range(4)]
ASKED = Asked(seed=3, max_new_tokens=20, temperature=0.7)
CONNECTION = ("concurrency", "timeout", "retries", "parameters")


@pytest.fixture
def serve():
    servers = []

    def start(reply, models=404):
        servers.append(local_server.LocalServer(reply, models))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def openai_form(name):
    """OpenAI's refusal, which points at the parameter."""
    message = f"Unsupported parameter: '{name}' is not supported with this model."
    return 400, {"error": {"message": message, "type": "invalid_request_error", "param": name, "code": "unsupported"}}


def fastapi_form(name):
    return 422, {
        "detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]
    }


def plain_form(name):
    return 400, {"object": "error", "message": f"unexpected keyword {name} in request", "param": None, "code": 400}


def text_form(name):
    return 400, {"error": f"{name.replace('_', ' ')} is unknown"}


def refusing(*names, form=openai_form, text="fine"):
    def reply(path, body):
        named = [name for name in names if name in body]
        return form(named[0]) if named else local_server.chat(text)

    return reply


def draw(server, n=3, out=None, prompts=PROMPTS, form=None, **changes):
    connection = {"timeout": 5.0, "retries": 1} | {name: changes.pop(name) for name in CONNECTION if name in changes}
    source = ServedModel("m", server.url, replace(ASKED, **changes), **connection)
    return sample_from(source, prompts, n, out=out, form=form)


@pytest.mark.parametrize("form", [openai_form, fastapi_form, plain_form, text_form])
def test_a_refused_length_goes_by_its_other_name(serve, form, tmp_path, capsys):
    server = serve(refusing("max_tokens", form=form))
    groups = draw(server, out=tmp_path)
    assert [group.responses for group in groups] == [["fine"] * 3] * 4
    assert [body.get("max_tokens") for body in server.requests].count(20) == 1, "refused once"
    assert [body.get("max_completion_tokens") for body in server.requests].count(20) == 12
    [note] = read_settings(tmp_path)["adapted"].values()
    assert "refused max_tokens=20" in note
    assert "max_completion_tokens=20 was sent instead" in note
    assert capsys.readouterr().err.count("warning: endpoint") == 1


def test_a_server_that_takes_neither_temperature_nor_seed_nor_the_old_length(serve, tmp_path):
    server = serve(refusing("max_tokens", "temperature", "seed"))
    draw(server, out=tmp_path)
    assert len(server.requests) == 12 + 3, "each refused once"
    assert set(server.requests[-1]) == {"model", "messages", "max_completion_tokens"}
    notes = list(read_settings(tmp_path)["adapted"].values())
    assert len(notes) == 3
    [heat] = [note for note in notes if "temperature" in note]
    assert (
        "refused temperature=0.7 (Unsupported parameter: 'temperature' is not supported with this model): it was "
        in heat
    )
    assert "the server's own default temperature holds" in heat


def test_what_was_adapted_is_in_the_evaluation_and_survives_a_second_start(serve, tmp_path, words):
    server = serve(refusing("temperature"))
    for _ in range(2):
        groups = draw(server, out=tmp_path)
        document = evaluate(groups, encoder=words, out=tmp_path, sampling=read_settings(tmp_path))
        assert [note for note in document["notes"] if "refused temperature=0.7" in note]
    assert len(server.requests) == 13


def test_a_refusal_that_is_about_the_prompt_changes_no_parameter(serve, tmp_path):
    """It names a parameter, but without the parameter it is refused just the same."""

    def reply(path, body):
        if body["messages"][-1]["content"] == "question 2":
            return 400, {"error": {"message": "Invalid input: 'what is the temperature in Oslo'"}}
        return local_server.chat("fine")

    server = serve(reply)
    groups = draw(server, out=tmp_path)
    assert [group.id for group in groups] == ["0", "1", "3"]
    answered = [body for body in server.requests if body["messages"][-1]["content"] != "question 2"]
    assert all(body["temperature"] == 0.7 for body in answered)
    assert "adapted" not in read_settings(tmp_path)


def test_a_length_that_does_not_fit_is_no_refusal_of_the_parameter(serve):
    said = "max_tokens is too large: 20. This model's maximum context length is 8 tokens"
    server = serve(lambda path, body: (400, {"error": {"message": said, "param": "max_tokens"}}))
    with pytest.raises(EndpointError, match="BadRequestError: max_tokens is too large: 20"):
        draw(server)
    assert not any("max_completion_tokens" in body for body in server.requests)


def test_a_refusal_of_everything_says_what_the_server_said(serve):
    server = serve(
        lambda path, body: (404, {"error": {"message": "The model `m` does not exist"}}), {"data": [{"id": "x"}]}
    )
    with pytest.raises(
        EndpointError, match=r"The model `m` does not exist; check the URL.* 'm' \(the server lists x\)"
    ):
        draw(server)
    assert len(server.requests) == 1


def test_neutral_parameters_are_not_sent_and_options_set_and_leave_out(serve, tmp_path):
    server = serve(lambda path, body: local_server.chat("fine"))
    draw(server, n=1)
    assert set(server.requests[0]) == {"model", "messages", "max_tokens", "temperature", "seed"}
    draw(server, n=1, parameters={"top_p": 0.5, "seed": None, "reasoning_effort": "low"}, out=tmp_path)
    sent = server.requests[-1]
    assert (sent["top_p"], sent["reasoning_effort"]) == (0.5, "low")
    assert "seed" not in sent
    assert read_settings(tmp_path)["parameters"] == {"top_p": 0.5, "seed": None, "reasoning_effort": "low"}


@pytest.mark.parametrize(
    "models",
    [404, 401, 500, [{"id": "m", "owned_by": "vllm"}], ["m"], {"models": [{"name": "m"}]}, {"data": []}, {"data": None},
     "m", {"data": [{"id": "another"}]}, {"object": "list", "data": [{"id": "m"}]}],
)  # fmt: skip
def test_the_list_of_models_is_a_courtesy(serve, models):
    server = serve(lambda path, body: local_server.chat("fine"), models)
    assert [group.responses for group in draw(server, n=1)] == [["fine"]] * 4
    if models == [{"id": "m", "owned_by": "vllm"}]:
        assert server.requests[0]["top_k"] == -1


NO_ANSWER = {
    "no choices": {"choices": []},
    "null choices": {"choices": None},
    "null message": {"choices": [{"index": 0, "finish_reason": "stop", "message": None}]},
    "null content": local_server.chat(None),
    "refusal": local_server.chat(None, refusal="I cannot help with that."),
    "filter": local_server.chat("", finish="content_filter"),
    "null filter": local_server.chat(None, finish="content_filter"),
    "error": {"error": {"message": "Provider returned error", "code": 502}},
    "error as text": {"error": "moderated"},
    "error in the choice": {"choices": [{"error": {"message": "x"}, "message": {"content": ""}}]},
    "refused prompt": (400, {"error": {"code": "content_filter", "message": "filtered", "param": "prompt"}}),
    "too long": (400, {"error": {"message": "maximum context length is 8 tokens"}}),
    "moderated": (403, {"error": {"message": "Your input was flagged"}}),
    "crash": (500, {"error": {"message": "boom"}}),
    "a list": ["surprise"],
    "a proxy's page": b"<html>Bad gateway</html>",
    "half a body": b'{"choices": [{"index": 0, "mess',
    "another encoding": '{"choices": [{"message": {"content": "caf\u00e9"}}]}'.encode("latin-1"),
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("place", ["question 0", "question 2", "question 3"])
@pytest.mark.parametrize("name", NO_ANSWER)
def test_one_prompt_without_an_answer_is_left_out_and_counted(serve, name, place, tmp_path, words):
    def reply(path, body):
        return NO_ANSWER[name] if body["messages"][-1]["content"] == place else local_server.chat("fine")

    server = serve(reply)
    for _ in range(2):  # a second start, which asks again, is ended no more than the first
        groups = draw(server, n=2, out=tmp_path, retries=0)
        assert [group.prompt for group in groups] == [prompt.prompt for prompt in PROMPTS if prompt.prompt != place]
        assert [group.id for group in read_groups(tmp_path / "groups.jsonl")] == [group.id for group in groups]
        [left_out] = read_settings(tmp_path)["left_out"].items()
        assert left_out[0] == place[-1]
        assert left_out[1], "the server's reason"
    notes = evaluate(groups, encoder=words, out=tmp_path, sampling=read_settings(tmp_path))["notes"]
    assert [note for note in notes if note.startswith("1 prompts are left out")]


def test_a_response_that_is_missing_is_drawn_again_with_another_seed(serve):
    refused = []

    def reply(path, body):
        if len(refused) < 2 and body["messages"][-1]["content"] == "question 1":
            refused.append(body["seed"])
            return {"choices": []}
        return local_server.chat(str(body["seed"]))

    groups = draw(serve(reply), n=3, concurrency=1)
    assert [len(set(group.responses)) for group in groups] == [3] * 4
    assert not set(map(str, refused)) & set(groups[1].responses)


def test_finish_reasons_are_kept(serve, tmp_path, words):
    replies = [("a", "stop"), ("b", "length"), ("c", "content_filter"), ("d", None)]
    server = serve(lambda path, body: local_server.chat(*replies[int(body["messages"][-1]["content"][-1])]))
    groups = draw(server, n=1, out=tmp_path)
    assert [group.finish for group in groups] == [["eos"], ["length"], ["content_filter"], ["unknown"]]
    assert read_groups(tmp_path / "groups.jsonl") == groups
    notes = evaluate(groups, encoder=words, out=tmp_path)["notes"]
    assert "1 responses ended by 'content_filter', neither by themselves nor at the limit of their length." in notes


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_in_a_field_of_their_own_are_no_part_of_the_answer(serve, field):
    server = serve(lambda path, body: local_server.chat("Paris", **{field: "Rome? No."}))
    assert draw(server, n=1)[0].responses == ["Paris"]
    only = serve(lambda path, body: local_server.chat(None, finish="length", **{field: "Rome? No."}))
    assert (draw(only, n=1)[0].responses, draw(only, n=1)[0].finish) == ([""], ["length"])
    parts = [{"type": "thinking", "thinking": "Rome?"}, {"type": "text", "text": "Paris"}]
    assert draw(serve(lambda path, body: local_server.chat(parts)), n=1)[0].responses == ["Paris"]


def test_more_choices_than_asked_for_are_one_response(serve):
    two = local_server.chat("first")
    two["choices"] += local_server.chat("second")["choices"]
    assert draw(serve(lambda path, body: two), n=2)[0].responses == ["first", "first"]


def test_calls_of_verbalized_sampling_may_go_unanswered(serve):
    text = "".join(f"<response><text>{letter}</text></response>" for letter in "abcd")
    server = serve(
        lambda path, body: (
            {"choices": []} if "question 1" in body["messages"][-1]["content"] else local_server.chat(text)
        )
    )
    groups = draw(server, n=4, form=Form(4))
    assert [group.id for group in groups] == ["0", "2", "3"]


INTERRUPTED = """
import sys
url, what = sys.argv[1:]
print("started", flush=True)
if what == "judge":
    from dqo.rewards.judge import JudgeReward
    JudgeReward(url, "m", retries=1000).quality(["p"] * 100, [str(i) for i in range(100)])
elif what == "sampling":
    from dqo.evaluation.sampling import sample_from
    from dqo.evaluation.engines import Asked, ServedModel
    from dqo.files.records import Prompt
    source = ServedModel("m", url, Asked(seed=0, max_new_tokens=5, temperature=1.0), retries=1000)
    sample_from(source, [Prompt("a", "b", [], {})], 50)
else:
    from dqo.embedders.served import ServedEmbedder
    ServedEmbedder(url, "m", retries=1000)
"""


@pytest.mark.parametrize("what", ["judge", "embeddings", "sampling"])
@pytest.mark.parametrize("fault", ["slow", "busy"])
def test_ctrl_c_ends_requests_under_way_within_two_seconds(serve, what, fault):
    """A server that takes a minute, and one that is busy, so that the client waits between its retries."""

    def reply(path, body):
        if fault == "slow":
            time.sleep(60)
        return 503

    server = serve(reply)
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, server.url, what],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.requests
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        before = time.monotonic()
        _, said = process.communicate(timeout=20)
        assert time.monotonic() - before < 4, "two seconds, and as much for a machine under load"
        assert "KeyboardInterrupt" in said
        assert process.returncode != 0
    finally:
        process.kill()


def test_the_server_s_detail_is_shown_whatever_its_form(serve):
    for document in ({"error": {"message": "why it is"}}, {"error": "why it is"}, {"message": "why it is"},
                     {"detail": "why it is"}, {"detail": [{"loc": ["body"], "msg": "why it is"}]}):  # fmt: skip
        server = serve(lambda path, body, document=document: (400, document))
        with pytest.raises(
            EndpointError, match=r"BadRequestError: (body )?why it is; change what the server complains"
        ):
            draw(server)


def test_an_evaluation_is_not_left_beside_responses_that_came_after_it(serve, tmp_path, words):
    allowed = {"question 0", "question 1"}

    def reply(path, body):
        return local_server.chat("fine") if body["messages"][-1]["content"] in allowed else 401

    server = serve(reply)
    groups = draw(server, n=2, out=tmp_path, prompts=PROMPTS[:2])
    evaluate(groups, encoder=words, out=tmp_path)
    draw(server, n=2, out=tmp_path, prompts=PROMPTS[:2])
    assert (tmp_path / "metrics.json").exists(), "nothing new was drawn"
    allowed.add("question 2")
    with pytest.raises(EndpointError, match="OPENAI_API_KEY"):
        draw(server, n=2, out=tmp_path, concurrency=1)
    assert [group.id for group in read_groups(tmp_path / "groups.jsonl")] == ["0", "1", "2"]
    assert not (tmp_path / "metrics.json").exists(), "it would stand for two of three prompts"
