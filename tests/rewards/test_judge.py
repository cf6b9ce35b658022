"""The judge against a real HTTP server on this machine."""

import local_server
import pytest

from dqo.errors import DataError, EndpointError
from dqo.rewards.judge import JudgeReward


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
    assert reward.counts() == {"asked": 3, "unreadable": 0, "calls": 3, "tokens_read": 0, "tokens_written": 0}
    assert reward.notes == ["judge:m: 3 calls, tokens not reported."]


def test_what_a_judge_cost_is_counted_as_the_server_counts_it(serve):
    usage = {"usage": {"prompt_tokens": 700, "completion_tokens": 8, "total_tokens": 708}}
    server = serve(lambda path, body: by_length(path, body) | usage)
    reward, logged = judge(server), {}
    reward(prompts=["p"] * 2, completions=["a", "aa"], log_metric=logged.__setitem__)
    assert logged == {"rewards/judge/asked": 2.0, "rewards/judge/unreadable": 0.0, "rewards/judge/calls": 2.0,
                      "rewards/judge/tokens_read": 1400.0, "rewards/judge/tokens_written": 16.0}  # fmt: skip
    cost = "judge:m: 2 calls, 1,400 tokens read and 16 written."
    assert reward.notes == [cost]


def test_scores_outlive_the_process_in_a_file(serve, tmp_path):
    server = serve(by_length)
    cache = str(tmp_path / "scores.jsonl")
    judge(server, cache=cache)(prompts=["p"], completions=["aaaa"])
    with (tmp_path / "scores.jsonl").open("a") as file:
        file.write('{"key": "ab')  # a kill in the middle of a line
    assert judge(server, cache=cache)(prompts=["p"], completions=["aaaa"]) == pytest.approx([1 / 3])
    assert len(server.requests) == 1
    judge(server, cache=cache, rubric="Another.")(prompts=["p"], completions=["aaaa"])
    assert len(server.requests) == 2, "another rubric is another question"
    with (tmp_path / "scores.jsonl").open("ab") as file:
        file.write(b"\xff\n")  # a damaged block
    with pytest.raises(DataError, match=r"scores.jsonl: expected UTF-8, got byte 0xff"):
        judge(server, cache=cache)


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
    assert reward(prompts=["p"], completions=["worse, bad"]) == [None], "it has scored others"
    assert (reward.counts()["asked"], reward.counts()["unreadable"]) == (3, 2)
    assert reward.notes[0] == "judge:m: 2 of 3 scores could not be read: their prompts are unscored."
    with pytest.raises(
        EndpointError, match=r"judge:m: expected replies that hold 'Score: <number>', but none of 1 did"
    ):
        judge(server)(prompts=["p"], completions=["bad"])


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
        ("A score of 9 is for later.", None),
    ],
)
def test_the_scale_is_not_taken_for_the_score(serve, reply, score):
    """One response that can be read goes along, as a call of which none can is an error."""
    server = serve(lambda path, body: local_server.chat("Score: 1" if "sure" in str(body) else reply))
    wanted = None if score is None else pytest.approx((score - 1) / 9)
    assert judge(server)(prompts=["p", "p"], completions=["sure", "a"]) == [0, wanted]


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


def test_the_judge_asks_for_json_until_the_server_refuses_it(serve, capsys):
    def reply(path, body):
        if "response_format" in body:
            return 400, {"error": {"message": "This response_format type is unavailable now", "param": None}}
        return by_length(path, body)

    server = serve(reply)
    reward = judge(server)
    assert reward(prompts=["p"] * 3, completions=["a", "aaaa", "a" * 10]) == pytest.approx([0, 1 / 3, 1])
    assert sum("response_format" in body for body in server.requests) == 1, "refused once"
    note, _ = reward.notes
    assert "refused response_format (This response_format type is unavailable now): it was left out" in note
    assert capsys.readouterr().err.count("refused response_format") == 1
    structured = serve(lambda path, body: local_server.chat('{"score": 4}'))
    assert judge(structured)(prompts=["p"], completions=["a"]) == pytest.approx([1 / 3])
    schema = structured.requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["score"]
    assert schema["properties"] == {"score": {"type": "number"}}


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": []},
        {"choices": [{"index": 0, "finish_reason": "content_filter", "message": None}]},
        {"error": {"message": "flagged", "code": 403}},
        (400, {"error": {"message": "The prompt triggered the content policy", "code": "content_filter"}}),
        (403, {"error": {"message": "flagged"}}),
        (500, {"error": {"message": "crashed"}}),
    ],
)
def test_no_single_question_ends_a_judgement(serve, odd):
    server = serve(lambda path, body: odd if "bad" in str(body) else by_length(path, body))
    reward = judge(server, retries=0, concurrency=2)
    assert reward(prompts=["p"] * 3, completions=["a", "bad", "aaaa"]) == pytest.approx([0, None, 1 / 3])
    assert (reward.counts()["asked"], reward.counts()["unreadable"]) == (3, 1)


def test_every_reply_is_on_disk_at_once_and_asked_once_for_ever(serve, tmp_path):
    cache = str(tmp_path / "replies.jsonl")
    alive = {"left": 3}

    def dies(path, body):
        alive["left"] -= 1
        return 503 if alive["left"] < 0 else by_length(path, body)

    server = serve(dies)
    rows = {"prompts": ["p"] * 6, "completions": ["a" * (i + 1) for i in range(6)]}
    with pytest.raises(EndpointError):
        judge(server, cache=cache, retries=0, concurrency=1)(**rows)
    alive["left"] = 100
    before = len(server.requests)
    assert judge(server, cache=cache, retries=0)(**rows) == pytest.approx([i / 9 for i in range(6)])
    assert len(server.requests) - before == 3, "the first three are on disk"
    judge(server, cache=cache, max_tokens=9)(prompts=["p"], completions=["a"])
    assert len(server.requests) - before == 4, "another length of the reply is another question"


def test_a_number_that_the_limit_cut_is_no_score(serve):
    server = serve(lambda path, body: local_server.chat("Score: 1", finish="length"))
    with pytest.raises(EndpointError, match="but none of 1 did"):
        judge(server)(prompts=["p"], completions=["a"])


def test_what_a_judge_thinks_is_no_part_of_its_reply(serve):
    server = serve(lambda path, body: local_server.chat("Score: 4", reasoning_content="Score: 9"))
    assert judge(server)(prompts=["p"], completions=["a"]) == pytest.approx([1 / 3])


def test_a_response_without_text_is_worth_nothing_and_not_shown(serve):
    server = serve(by_length)
    assert judge(server)(prompts=["p"] * 2, completions=[" ", "aaaa"]) == pytest.approx([0, 1 / 3])
    assert len(server.requests) == 1


def test_parameters_are_set_and_left_out(serve):
    server = serve(by_length)
    options = {"response_format": None, "temperature": None, "reasoning_effort": "low"}
    judge(server, parameters=options)(prompts=["p"], completions=["a"])
    [body] = server.requests
    assert set(body) == {"model", "messages", "max_tokens", "reasoning_effort"}
