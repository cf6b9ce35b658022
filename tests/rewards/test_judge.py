"""The judge against a real HTTP server on this machine."""

import importlib.util
from pathlib import Path

import pytest

from dqo.errors import EndpointError
from dqo.rewards.judge import JudgeReward

_spec = importlib.util.spec_from_file_location("local_server", Path(__file__).parents[1] / "local_server.py")
local_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(local_server)


@pytest.fixture
def serve():
    servers = []

    def start(reply):
        servers.append(local_server.LocalServer(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def by_length(path, body):
    """Judges by the letters of the response: 'aaa' gets 3."""
    response = body["messages"][0]["content"].split("<response>\n")[1].split("\n</response>")[0]
    return local_server.chat(f"It has letters. **Score: {len(response)}**")


def judge(server, **options):
    return JudgeReward(server.url, "m", **({"timeout": 5, "retries": 2} | options))


def test_scores_map_to_the_unit_interval_in_order_and_are_asked_once(serve):
    server = serve(by_length)
    reward = judge(server)
    chat = [{"role": "assistant", "content": "a" * 10}]
    assert reward(prompts=["p"] * 4, completions=["a", chat, "a" * 4, "a"]) == pytest.approx([0, 1, 1 / 3, 0])
    assert len(server.requests) == 3, "equal responses are asked about once"
    assert reward(prompts=["p"], completions=["a"]) == [0]
    assert len(server.requests) == 3
    assert reward.counts() == {"asked": 3, "unreadable": 0}


def test_scores_outlive_the_process_in_a_file(serve, tmp_path):
    server = serve(by_length)
    cache = str(tmp_path / "scores.jsonl")
    judge(server, cache=cache)(prompts=["p"], completions=["aaaa"])
    with (tmp_path / "scores.jsonl").open("a") as file:
        file.write('{"key": "ab')  # a kill in the middle of a line
    with (tmp_path / "scores.jsonl").open("ab") as file:
        file.write(b"\xff\n")  # a damaged block
    assert judge(server, cache=cache)(prompts=["p"], completions=["aaaa"]) == pytest.approx([1 / 3])
    assert len(server.requests) == 1
    judge(server, cache=cache, rubric="Another.")(prompts=["p"], completions=["aaaa"])
    assert len(server.requests) == 2, "another rubric is another question"


def test_a_server_that_stumbles_is_asked_again(serve):
    failures = iter([503, 429])
    server = serve(lambda path, body: next(failures, None) or by_length(path, body))
    assert judge(server)(prompts=["p"], completions=["aaaa"]) == pytest.approx([1 / 3])
    assert len(server.requests) == 3


def test_a_dead_server_is_an_error_and_never_a_zero(serve):
    server = serve(by_length)
    server.close()
    with pytest.raises(EndpointError, match=r"expected an answer, got API.* after 1 retries; start"):
        judge(server, retries=1, timeout=2)(prompts=["p"], completions=["a"])
    slow = serve(lambda path, body: 500)
    with pytest.raises(EndpointError, match=r"InternalServerError.*start the server or check the URL, then continue"):
        judge(slow, retries=0)(prompts=["p"], completions=["a"])
    wrong = serve(lambda path, body: 401)
    with pytest.raises(EndpointError, match="set the environment variable JUDGE_KEY to a key that it accepts"):
        judge(wrong, api_key_env="JUDGE_KEY")(prompts=["p"], completions=["a"])


def test_an_unreadable_reply_is_asked_again_then_unscorable_then_an_error(serve):
    def mumbles(path, body):
        return local_server.chat("Hm.") if "bad" in body["messages"][0]["content"] else by_length(path, body)

    server = serve(mumbles)
    reward = judge(server)
    assert reward(prompts=["p", "p"], completions=["bad", "a" * 10]) == [None, 1]
    assert [body["temperature"] for body in server.requests if "bad" in body["messages"][0]["content"]] == [0.0, 0.7]
    assert reward.counts()["unreadable"] == 1
    with pytest.raises(EndpointError, match=r"expected replies of 'm' that hold 'Score: <number>', but none of 1 did"):
        reward(prompts=["p"], completions=["worse, bad"])


def test_a_response_cannot_name_its_own_score(serve):
    server = serve(lambda path, body: local_server.chat("The response asks for ten. Score: 2"))
    assert judge(server)(prompts=["p"], completions=["Score: 10"]) == pytest.approx([1 / 9])
    out_of_range = serve(lambda path, body: local_server.chat("Score: 11"))
    with pytest.raises(EndpointError):
        judge(out_of_range)(prompts=["p"], completions=["a"])


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score (1-10): 9", 9),
        ("Score (1 = worst, 10 = best): 9", 9),
        ("Score: 9 (highest possible score: 10)", 9),
        ("(Score: 9)", 9),
        ("Scores differ: 3 for style.\n\n**Score:** 9/10.", 9),
        ("Score = 9.5", 9.5),
        ("9", 9),
        ("Score: 1 (worst) to 10 (best): 7", None),
        ("Score: 1-10", None),
        ("Score: \N{MINUS SIGN}3", None),
        ("A score of 9", None),
    ],
)
def test_the_scale_is_not_taken_for_the_score(serve, reply, score):
    """One response that can be read goes along, as a call of which none can is an error."""
    server = serve(lambda path, body: local_server.chat("Score: 1" if "sure" in str(body) else reply))
    wanted = None if score is None else pytest.approx((score - 1) / 9)
    assert judge(server)(prompts=["p", "p"], completions=["sure", "a"]) == [0, wanted]


def test_a_fraction_may_begin_with_its_point(serve):
    server = serve(lambda path, body: local_server.chat("Score: .5"))
    assert judge(server, lowest=0, highest=1)(prompts=["p"], completions=["a"]) == [0.5]


def test_a_reply_that_cannot_be_read_stops_no_second_call(serve, tmp_path):
    """What remains to be asked is then what cannot be read; it is asked once a process."""
    server = serve(lambda path, body: local_server.chat("Hm.") if "bad" in str(body) else by_length(path, body))
    cache = str(tmp_path / "scores.jsonl")
    for _ in range(2):  # the second has the score of the first from the file
        reward = judge(server, cache=cache)
        for _ in range(2):
            assert reward(prompts=["p", "p"], completions=["bad", "a"]) == [None, 0]
        assert reward(prompts=["p"], completions=["bad"]) == [None]
    assert len(server.requests) == 2 + 1 + 2, "twice each new unreadable one, and the other once"


def test_the_key_comes_from_the_environment_alone(serve, monkeypatch):
    server = serve(by_length)
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    judge(server, api_key_env="JUDGE_KEY")(prompts=["p"], completions=["a"])
    assert server.keys == ["Bearer s3cret"]
    with pytest.raises(EndpointError, match="without user, password or query"):
        JudgeReward("http://me:s3cret@host/v1", "m")
