"""Every way a server fails, against every part that asks one: the same answer as without the fault, or one sentence."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest
from local_server import QuietServer

from dqo.embedders.served import ServedEmbedder
from dqo.errors import EndpointError
from dqo.evaluation.engines import Asked, ServedModel
from dqo.evaluation.sampling import sample_from
from dqo.files.records import Prompt
from dqo.rewards.judge import JudgeReward

pytestmark = pytest.mark.slow
TIMEOUT = 2.0
PROMPTS = [Prompt("one", "a cat?", [], {}), Prompt("two", "a dog?", [], {})]
# name -> (what happens to a request, how many requests it happens to, whether the answer is to be had all the same)
FAULTS = {
    "500 once": (500, 1, True), "429 once": (429, 1, True), "slow": ("slow", None, True),
    "silent once": ("silent", 1, True), "dropped once": ("drop", 1, True), "500": (500, None, False),
    "503": (503, None, False), "401": (401, None, False), "silent": ("silent", None, False),
    "dropped": ("drop", None, False), "cut off": ("cut", None, False), "no JSON": (b"<html>busy</html>", None, False),
    "other JSON": (b'{"surprise": [1]}', None, False), "a list": (b"[]", None, False), "empty": (b"", None, False),
    "dead": ("dead", None, False),
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Answers as OpenAI's protocol has it, except to the first `times` POST requests after `start`."""

    def do_GET(self):
        self.answer(200, b'{"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "x"}]}')

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            hit = self.server.times is None or self.server.times > 0
            if hit and self.server.times is not None:
                self.server.times -= 1
        fault = self.server.fault if hit else None
        if isinstance(fault, int):
            return self.answer(fault, b'{"error": {"message": "no"}}')
        if isinstance(fault, bytes):
            return self.answer(200, fault)
        if fault in ("drop", "silent"):
            time.sleep(2.5 * TIMEOUT if fault == "silent" else 0)
            self.close_connection = True
            return None
        if fault == "slow":
            time.sleep(TIMEOUT / 3)
        return self.answer(200, json.dumps(sound(self.path, body)).encode(), cut=fault == "cut")

    def answer(self, status, content, cut=False):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("retry-after-ms", "10")
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)

    def log_message(self, *args):
        pass


def sound(path, body):
    """What a server in order would say: a function of the request alone."""
    if path.endswith("/embeddings"):
        rows = [
            {"object": "embedding", "index": i, "embedding": [len(text), 1.0]} for i, text in enumerate(body["input"])
        ]
        return {"object": "list", "model": "m", "data": rows, "usage": {"prompt_tokens": 0, "total_tokens": 0}}
    asked = body["messages"][0]["content"]
    text = {"Judg": f"Score: {1 + len(asked) % 9}", "Rate": str(1 + len(asked) % 9)}.get(asked[:4], f"{asked} indeed")
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


def reward_judge(url):
    reward = JudgeReward(url, "m", timeout=TIMEOUT, retries=1)
    return lambda: reward(prompts=["p", "p"], completions=["a", "bb"])


def embedder(url):
    embed = ServedEmbedder(url, "m", timeout=TIMEOUT, retries=1)
    return lambda: embed(["a", "bbb"]).tolist()


def sampling(url):
    source = ServedModel("m", url, Asked(seed=3, max_new_tokens=8, temperature=1.0), timeout=TIMEOUT, retries=1)
    return lambda: [group.responses for group in sample_from(source, PROMPTS, 2)]


def evaluation_judge(url):
    judge = JudgeReward(url, "m", timeout=TIMEOUT, retries=1)
    return lambda: judge.quality(["?", "?"], ["a", "bbb"])


def under(make, name):
    """What comes of one fault: the answer or the error, and the healthy answer before it."""
    fault, times, _ = FAULTS[name]
    server = QuietServer(("127.0.0.1", 0), Handler)
    server.lock, server.fault, server.times = threading.Lock(), None, 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        healthy = make(url)()
        ask = make(url)  # a second one, which remembers no answer
        server.fault, server.times = fault, times
        if fault == "dead":
            server.shutdown(), server.server_close()
        try:
            return healthy, ask(), url
        except EndpointError as error:
            return healthy, error, url
    finally:
        if fault != "dead":
            server.shutdown(), server.server_close()


@pytest.mark.parametrize("make", [reward_judge, embedder, sampling, evaluation_judge])
def test_faults_are_survived_or_told(make, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-s3cret")
    with ThreadPoolExecutor(len(FAULTS)) as threads:
        outcomes = dict(zip(FAULTS, threads.map(lambda name: under(make, name), FAULTS), strict=True))
    for name, (_, _, survives) in FAULTS.items():
        healthy, outcome, url = outcomes[name]
        assert healthy, name
        if survives:
            assert outcome == healthy, name
            continue
        assert isinstance(outcome, EndpointError), f"{name}: {outcome}"
        said = str(outcome)
        assert url in said, name
        assert "\n" not in said
        assert "s3cret" not in said
        if name == "401":
            assert "OPENAI_API_KEY" in said
