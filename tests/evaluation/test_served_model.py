"""An endpoint as a source: a real server on this machine that fails in the ways servers do."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler

import pytest
from local_server import QuietServer

from dqo.errors import EndpointError
from dqo.evaluation.engines import Asked, ServedModel
from dqo.evaluation.sampling import sample_from
from dqo.files.records import Prompt, read_groups
from dqo.rewards.judge import JudgeReward

PROMPTS = [Prompt("one", "a cat?", [], {}), Prompt("two", "a dog?", "ref", {"x": 1}), Prompt("three", "why", [], {})]
ASKED = Asked(seed=3, max_new_tokens=20, temperature=0.7)
CONNECTION = ("concurrency", "timeout", "retries", "parameters")


class Server(QuietServer):
    """Echoes message and seed; `misbehave(body, number)` may return (status, text) or a message in its place."""

    def __init__(self, owner="vllm"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.owner, self.asked, self.keys, self.lock = owner, [], set(), threading.Lock()
        self.misbehave = lambda body, number: None
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.keys.add(self.headers["Authorization"])
        models = [{"id": "tiny", "object": "model", "created": 0, "owned_by": self.server.owner}]
        self.reply(200, {"object": "list", "data": models})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            number = len(self.server.asked)
        odd = self.server.misbehave(body, number)
        if isinstance(odd, tuple):
            return self.reply(odd[0], {"error": {"message": odd[1]}})
        message = odd or {"content": f"{body['messages'][0]['content']} {body['seed']}"}
        length = (body.get("seed", 0) % 2) and "length"
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": length or "stop"}
        return self.reply(
            200, {"id": "x", "object": "chat.completion", "created": 0, "model": "t", "choices": [choice]}
        )

    def reply(self, status, document):
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("retry-after-ms", "10")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def served(url, **changes):
    connection = {"timeout": 5.0} | {name: changes.pop(name) for name in CONNECTION if name in changes}
    return ServedModel("tiny", url, replace(ASKED, **changes), **connection)


def draw(server, out=None, prompts=PROMPTS, n=4, **changes):
    return sample_from(served(server.url, **changes), prompts, n, out=out)


def test_responses_seeds_and_settings(server, tmp_path):
    groups = draw(server, tmp_path)
    assert [(group.id, group.prompt, group.reference, group.meta) for group in groups] == [
        (prompt.id, prompt.prompt, prompt.reference, prompt.meta) for prompt in PROMPTS
    ]
    for group in groups:
        seeds = [int(text.removeprefix(group.prompt)) for text in group.responses]
        assert len(set(seeds)) == 4
        assert group.finish == ["length" if seed % 2 else "eos" for seed in seeds]
    assert {end for group in groups for end in group.finish} == {"eos", "length"}
    assert read_groups(tmp_path / "groups.jsonl") == groups
    for body in server.asked:
        assert (body["model"], body["temperature"], body["max_tokens"], body["top_p"]) == ("tiny", 0.7, 20, 1.0)
        assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0.0, 1.0)
    settings = json.loads((tmp_path / "sampling.json").read_text())
    assert settings["server"] == "vllm"
    assert (settings["temperature"], settings["top_k"], settings["n"]) == (0.7, -1, 4)


def test_samples_do_not_depend_on_n_order_or_concurrency(server):
    four, two = draw(server), draw(server, prompts=PROMPTS[::-1], n=2, concurrency=1)
    assert [group.responses for group in two] == [group.responses[:2] for group in four[::-1]]
    assert [group.responses for group in draw(server, seed=4)] != [group.responses for group in four]


def test_other_servers_get_standard_parameters_only():
    server = Server(owner="someone")
    draw(server, n=1)
    assert not {"top_k", "min_p", "repetition_penalty"} & set(server.asked[0])
    server.shutdown()


def test_the_key_comes_from_the_environment_and_is_written_nowhere(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    draw(server, tmp_path, n=1)
    assert server.keys == {"Bearer sk-very-secret"}
    assert all("secret" not in path.read_text() for path in tmp_path.iterdir())


def test_what_fails_now_and_then_is_tried_again(server):
    server.misbehave = lambda body, number: (503, "busy") if number % 3 == 1 else None
    groups = draw(server, n=6)
    server.misbehave = lambda body, number: None
    assert groups == draw(server, n=6)
    assert len(server.asked) > 2 * 18


def test_what_fails_for_good_keeps_the_finished_prompts_and_is_continued(server, tmp_path):
    server.misbehave = lambda body, number: (400, "too long") if body["messages"][0]["content"] == "why" else None
    draw(server, tmp_path, concurrency=1)
    left_out = json.loads((tmp_path / "sampling.json").read_text())["left_out"]
    assert left_out == {"three": "too long"}
    kept = read_groups(tmp_path / "groups.jsonl")
    assert [group.id for group in kept] == ["one", "two"]
    server.misbehave = lambda body, number: None
    before = len(server.asked)
    groups = draw(server, tmp_path, concurrency=1)
    assert groups[:2] == kept
    assert len(server.asked) - before == 4, "finished prompts are not asked again"
    assert "left_out" not in json.loads((tmp_path / "sampling.json").read_text())


def test_groups_are_in_the_prompts_order_though_answers_are_not(server, tmp_path):
    hold = threading.Event()

    def slow_first(body, number):
        if body["messages"][0]["content"] == "a cat?":
            hold.wait(2)
        elif number >= 10:
            hold.set()

    server.misbehave = slow_first
    groups = draw(server, tmp_path)
    assert [group.id for group in groups] == ["one", "two", "three"]
    assert read_groups(tmp_path / "groups.jsonl") == groups


def test_a_system_prompt_is_the_first_message(server):
    sample_from(served(server.url, system_prompt="Be brief."), PROMPTS[:1], 1)
    first, second = server.asked[-1]["messages"]
    assert first == {"role": "system", "content": "Be brief."}
    assert second["role"] == "user"


def test_variables_of_the_chat_template_are_sent_and_recorded(server):
    thinking = {"enable_thinking": True}
    model = served(server.url, chat_template_kwargs=thinking)
    sample_from(model, PROMPTS[:1], 1)
    assert server.asked[-1]["chat_template_kwargs"] == model.settings()["chat_template_kwargs"] == thinking
    sample_from(served(server.url), PROMPTS[:1], 1)
    assert "chat_template_kwargs" not in server.asked[-1]


def test_an_answer_without_text_is_an_empty_response(server):
    server.misbehave = lambda body, number: {"content": None, "reasoning_content": "hm"}
    assert {text for group in draw(server) for text in group.responses} == {""}


def test_a_silent_server_is_given_up(server):
    stop = threading.Event()
    server.misbehave = lambda body, number: stop.wait(5) and None
    with pytest.raises(EndpointError, match=r"expected an answer, got APITimeoutError"):
        draw(server, n=1, prompts=PROMPTS[:1], timeout=0.2, retries=1)
    stop.set()
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "localhost:8000",
            r"expected a URL such as http://localhost:8000/v1 .*, got 'localhost:8000'; a key goes into",
        ),
        ("http://user:pass@host/v1", r"without user, password or query, got one with such a part"),
        ("http://host/v1?key=abc", r"without user, password or query, got one with such a part"),
        ("http://127.0.0.1:9/v1", r"127\.0\.0\.1:9/v1: expected an answer, got APIConnectionError.*start the server"),
    ],
)
def test_a_bad_or_dead_url_is_one_sentence(url, message):
    with pytest.raises(EndpointError, match=message) as caught:
        served(url, retries=0)
    assert "pass" not in str(caught.value).replace("password", "")


def test_an_answer_that_is_no_completion_is_one_sentence(server):
    Handler.reply, honest = lambda self, status, document: honest(self, status, ["surprise"]), Handler.reply
    try:
        with pytest.raises(EndpointError, match=r"expected an answer, got NoAnswer: .*in place of a chat completion"):
            draw(server)
    finally:
        Handler.reply = honest


def judging(body, number):
    """A rating by length; "Well" for what begins with z."""
    response = body["messages"][0]["content"].split("<response>\n")[1].split("\n</response>")[0]
    return {"content": "Well, 3 or 4" if response[0] == "z" else f" {min(10, len(response))}/10\n"}


def test_a_judge_rates(server):
    server.misbehave = judging
    judge = JudgeReward(server.url, "tiny", retries=0)
    assert judge.name == "judge:tiny"
    scores = judge.quality(["?"] * 4, ["abc", "", "zz", "a" * 20], reference=[])
    assert scores == [pytest.approx(2 / 9), 0.0, None, 1.0]
