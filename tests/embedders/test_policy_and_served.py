"""Encoders that are language models: the frozen policy, and one behind a real HTTP server on this machine."""

import math

import local_server
import pytest
import torch

from dqo.embedders import load_embedder
from dqo.embedders.served import PIECE_BYTES
from dqo.errors import EncoderError, EndpointError, ModelError

TEXTS = ["the dog runs", "a big red bird sings near the old house", "", "cat", "the small cat sleeps"]


def test_hidden_states_are_the_mean_over_the_text_alone(tiny_policy_folder, tiny_policy, tiny_tokenizer):
    embed = load_embedder(f"policy:{tiny_policy_folder}", batch_size=2, device="cpu")
    rows = embed(TEXTS)
    assert rows.shape == (5, 32) == (5, embed.dimension)
    for text, row in zip(TEXTS, rows, strict=True):
        ids = tiny_tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        if ids.numel() == 0:
            assert row.count_nonzero() == 0
            continue
        states = tiny_policy.model(input_ids=ids).last_hidden_state[0].detach()  # (T, D)
        mean = sum(states[t] for t in range(len(states))) / len(states)
        torch.testing.assert_close(row, mean / mean.norm(), atol=1e-5, rtol=0)


def test_a_text_longer_than_the_model_reads_is_embedded_whole(tiny_policy_folder):
    embed = load_embedder(f"policy:{tiny_policy_folder}", device="cpu")
    start = "the dog runs " * 100  # 300 of the model's 256 positions
    one, other = embed([start + "the cat sings", start + "a blue river sleeps over a tree " * 5])
    assert one @ other < 1 - 1e-5, "what stands at the end must count"


def test_names_without_a_model_are_refused():
    with pytest.raises(ModelError, match=r"expected '' to be a folder"):
        load_embedder("policy:")
    with pytest.raises(EncoderError, match=r"expected 'endpoint:<url>#<model>' .*, got 'endpoint:http://x/v1'"):
        load_embedder("endpoint:http://x/v1")


@pytest.fixture
def server():
    """Embeds a text as (its letters 'a', its letters 'b'), in reverse order of the request."""

    def reply(path, body):
        assert path == "/v1/embeddings"
        answer = local_server.embeddings([[t.count("a"), t.count("b") + 1e-3] for t in body["input"]])
        answer["data"].reverse()
        return answer

    running = local_server.LocalServer(reply)
    yield running
    running.close()


def test_served_embeddings_keep_order_and_norm(server):
    embed = load_embedder(f"endpoint:{server.url}#m", batch_size=2)
    assert embed.dimension == 2
    rows = embed(["a", "b", "ab", "", "aab"])
    angles = [math.atan2(y, x) for x, y in rows.tolist() if (x, y) != (0, 0)]
    assert angles == pytest.approx([0, math.pi / 2, math.pi / 4, math.atan(0.5)], abs=2e-3)
    assert rows[3].count_nonzero() == 0
    assert max(len(body["input"]) for body in server.requests) == 2


def test_a_long_text_is_sent_in_pieces(server):
    embed = load_embedder(f"endpoint:{server.url}#m")
    text = "a" * PIECE_BYTES + " " + "b" * PIECE_BYTES
    row = embed([text])[0]
    assert row.tolist() == pytest.approx([math.sqrt(0.5)] * 2, abs=0.05)
    assert all(len(piece.encode()) <= PIECE_BYTES for body in server.requests for piece in body["input"])


def test_a_dead_server_stops_the_run_at_its_start(monkeypatch):
    from dqo.embedders.served import ServedEmbedder

    with pytest.raises(
        EndpointError, match=r"endpoint http://127.0.0.1:9/v1: expected an answer, got .* after 0 retries"
    ):
        ServedEmbedder("http://127.0.0.1:9/v1", "m", retries=0, timeout=2)
