"""Pooling and prompt of an encoder: what its files leave open is said, what its card asks for can be set everywhere."""

import json
import re
import warnings
from pathlib import Path

import local_server
import pytest
import tiny_encoder as tiny
import torch
from torch.nn.functional import normalize

from dqo.embedders import load_embedder
from dqo.embedders.naming import EncoderName, canonical, read_name, with_whole_path
from dqo.errors import EncoderError, RecipeError

_HERE = Path(__file__).parent

TEXTS = ["the dog runs", "a red bird sings near the tree", "cat"]


def states(text):
    """Last hidden states of one text, [CLS] and [SEP] included, without any library of encoders."""
    with torch.no_grad():
        return tiny.bert()(**tiny.tokenizer()(text, return_tensors="pt")).last_hidden_state[0]  # (T, D)


POOLED = {"mean": lambda rows: rows.mean(0), "cls": lambda rows: rows[0], "last": lambda rows: rows[-1]}


@pytest.mark.parametrize("make", [tiny.bare_folder, tiny.encoder_folder])
@pytest.mark.parametrize("pooling", POOLED)
def test_the_pooling_that_is_asked_for_is_taken(pooling, make, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is left open
        embed = load_embedder(f"{make(tmp_path / 'encoder')}?pooling={pooling}", device="cpu")
    expected = normalize(torch.stack([POOLED[pooling](states(text)) for text in TEXTS]))
    torch.testing.assert_close(embed(TEXTS), expected, atol=1e-5, rtol=0)
    assert embed.notes == []


def test_a_folder_that_does_not_say_how_to_pool_is_noted(tmp_path):
    folder = tiny.bare_folder(tmp_path / "bare")
    with pytest.warns(UserWarning, match=rf"so 'mean' is taken; if its card says .*'{folder}\?pooling=cls' or"):
        embed = load_embedder(str(folder), device="cpu")
    torch.testing.assert_close(embed(TEXTS[:1])[0], normalize(states(TEXTS[0]).mean(0), dim=0), atol=1e-5, rtol=0)
    assert len(embed.notes) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_embedder(str(tiny.encoder_folder(tmp_path / "whole")), device="cpu").notes == []


@pytest.mark.parametrize("of_its_own", [{}, {"prompts": {"q": "bird "}, "default_prompt_name": "q"}])
def test_the_prompt_stands_before_every_text_in_place_of_its_own(of_its_own, tmp_path):
    folder = tiny.encoder_folder(tmp_path / "encoder", **of_its_own)
    rows = load_embedder(f"{folder}?prompt=query: ", device="cpu")([*TEXTS, "", " \n"])
    expected = normalize(torch.stack([states(f"query: {text}").mean(0) for text in TEXTS]))
    torch.testing.assert_close(rows[:3], expected, atol=1e-5, rtol=0)
    assert rows[3:].count_nonzero() == 0, "a blank text stays blank"
    plain = normalize(torch.stack([states(text).mean(0) for text in TEXTS]))
    torch.testing.assert_close(load_embedder(f"{folder}?prompt=", device="cpu")(TEXTS), plain, atol=1e-5, rtol=0)
    own = "bird " if of_its_own else ""
    untouched = normalize(torch.stack([states(own + text).mean(0) for text in TEXTS]))
    torch.testing.assert_close(load_embedder(str(folder), device="cpu")(TEXTS), untouched, atol=1e-5, rtol=0)


def test_a_prompt_takes_its_share_of_what_is_read_and_cuts_nothing(tmp_path):
    folder = tiny.encoder_folder(tmp_path / "encoder")
    embed = load_embedder(f"{folder}?prompt={'query: ' * 20}", device="cpu")  # leaves 10 of 32 tokens for the text
    start = "the dog runs " * 4
    one, other = embed([start, start + "cat"])
    assert one @ other < 1 - 1e-5
    with pytest.raises(EncoderError, match="room for a text in the 32 tokens it reads, got one that takes 32; shorten"):
        load_embedder(f"{folder}?prompt={'query: ' * 30}", device="cpu")


def test_a_server_gets_the_prompt_with_every_text():
    server = local_server.LocalServer(
        lambda path, body: local_server.embeddings([[len(text), 1.0] for text in body["input"]])
    )
    try:
        embed = load_embedder(f"endpoint:{server.url}#m?prompt=query: ")
        embed(["a", "bb", ""])
        assert sorted(text for body in server.requests[1:] for text in body["input"]) == ["query: a", "query: bb"]
        assert embed.name == f"endpoint:{server.url}#m?prompt=query: "
    finally:
        server.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x?pool=cls", "expected `pooling=` and `prompt=` after the question mark, each at most once, got 'pool=cls'"),
        ("x?pooling=cls&pooling=cls", "each at most once, got 'pooling=cls'"),
        ("x?pooling", "got 'pooling'"),
        ("x?prompt=a&b", "got 'b'; write %26 for an &"),
        ("x?pooling=max", "must be one of mean, cls, last, got 'max'"),
        (
            "hashed?prompt=a",
            "encoder 'hashed' takes no options after its name, got '?prompt=a'; drop",
        ),
        ("policy:a/b?pooling=cls", "encoder 'policy:a/b' takes no options after its name"),
        ("endpoint:http://x/v1#m?pooling=cls", "without `pooling`, which is set where the server is started, got"),
    ],
)
def test_an_option_that_cannot_be_taken_is_told(name, message):
    with pytest.raises(EncoderError, match=re.escape(message)):
        load_embedder(name)


@pytest.mark.parametrize(
    "prompt", ["query: ", "Instruct: tell & show\nQuery:", "100% of %26", "what?", "a#b", "x=y", ""]
)
@pytest.mark.parametrize("name", ["a/b", "endpoint:http://x/v1?version=2#m", "all-MiniLM-L6-v2"])
def test_a_name_survives_being_written_and_read(name, prompt):
    given = EncoderName(name, pooling="cls", prompt=prompt)
    assert read_name(str(given)) == given
    assert read_name(f"{name}?prompt=query: &pooling=last") == EncoderName(name, "last", "query: ")
    assert read_name(name) == EncoderName(name)


def test_a_prompt_may_be_longer_than_a_file_s_name():
    prompt = "Instruct: Given a question, retrieve passages that answer it.\nQuery: " * 5
    given = EncoderName("a/b", prompt=prompt)
    assert read_name(str(given)) == given
    assert canonical(str(given)) == "a/b"
    assert with_whole_path(str(given)) == str(given)


def test_a_folder_wins_and_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd?pooling=cls").mkdir()
    (tmp_path / "plain").mkdir()
    assert read_name("odd?pooling=cls") == EncoderName("odd?pooling=cls")
    assert with_whole_path("plain?prompt=a: ") == f"{tmp_path / 'plain'}?prompt=a: "
    assert with_whole_path("org/model?pooling=cls") == "org/model?pooling=cls"
    assert canonical("plain?prompt=a: ") == canonical("plain") == str(tmp_path / "plain")


class TestEveryDoor:
    """One declaration: wherever an encoder is named, its options are a part of the name."""

    @pytest.fixture
    def encoder(self, tmp_path):
        return f"{tiny.bare_folder(tmp_path / 'encoder')}?pooling=cls&prompt=query: "

    def expected(self, texts):
        return normalize(torch.stack([states(f"query: {text}")[0] for text in texts]))

    def test_a_reward_and_a_trainer(self, encoder, tiny_policy, tiny_tokenizer, tmp_path):
        from datasets import Dataset

        from dqo import DiversityReward, DQOConfig, DQOTrainer

        rows = DiversityReward(num_generations=3, encoder=encoder).embed(TEXTS)
        torch.testing.assert_close(rows.cpu(), self.expected(TEXTS), atol=1e-5, rtol=0)
        config = DQOConfig(str(tmp_path), encoder=encoder, use_cpu=True, bf16=False, report_to=[], num_generations=4)
        trainer = DQOTrainer(
            tiny_policy, lambda completions, **_: [0.0 for _ in completions], args=config,
            processing_class=tiny_tokenizer, train_dataset=Dataset.from_dict({"prompt": TEXTS}),
        )  # fmt: skip
        torch.testing.assert_close(trainer._embed(TEXTS).cpu(), self.expected(TEXTS), atol=1e-5, rtol=0)

    def test_an_evaluation(self, encoder, tmp_path):
        from dqo.cli.main import main
        from dqo.files.records import Group, write_groups

        texts = ["the dog", "a cat", "the bird"]
        groups = tmp_path / "groups.jsonl"
        write_groups(groups, [Group("0", "say", "cat", texts, ["eos"] * 3, None, {})])
        plain = encoder.partition("?")[0]
        for name, notes in ((encoder, 0), (plain, 1)):
            out = tmp_path / f"out{notes}"
            assert main(["eval", "--responses", str(groups), "--encoder", name, "--out", str(out)]) == 0
            kept = json.loads((out / "metrics.json").read_text())
            assert kept["encoder"] == name
            assert sum("how token states become one vector" in note for note in kept["notes"]) == notes
        document = json.loads((tmp_path / "out0" / "metrics.json").read_text())
        E = self.expected(texts).double()
        p = torch.linalg.eigvalsh(E @ E.T / 3).clamp(min=1e-12)
        assert document["metrics"]["vendi_1"]["mean"] == pytest.approx((-(p * p.log()).sum()).exp().item(), abs=1e-4)

    def test_a_run_of_verl(self, encoder, tmp_path, monkeypatch):
        pytest.importorskip("omegaconf")
        from dqo.integrations.verl.settings import DQOSettings, with_whole_paths

        monkeypatch.chdir(tmp_path)
        settings = with_whole_paths(DQOSettings(encoder="encoder?pooling=cls&prompt=query: "))
        assert settings.encoder == encoder

    def test_a_held_out_encoder_with_other_options_is_no_other(self, encoder):
        from dqo.train.recipe import check_heldout

        with pytest.raises(RecipeError, match="expected another encoder than `encoder`"):
            check_heldout(encoder.partition("?")[0], encoder)
        check_heldout("hashed", encoder)


@pytest.mark.parametrize("activation", ["torch.nn.modules.activation.Tanh", "own.Swish"])
def test_an_activation_that_torch_does_not_have_is_not_replaced(activation, tmp_path):
    folder = tiny.encoder_folder(tmp_path / "encoder", dense=True)
    (settings,) = folder.glob("*_Dense/config.json")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"activation_function": activation}))
    if activation.startswith("torch."):
        load_embedder(str(folder), device="cpu")
        return
    with pytest.raises(EncoderError, match=r"is code of its own, which dqo never runs\); .*'endpoint:<url>#<model>'"):
        load_embedder(str(folder), device="cpu")


def test_code_that_transformers_can_stand_in_for_is_noted(tmp_path):
    folder = tiny.encoder_folder(tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "own.Own"}}))
    with pytest.warns(
        UserWarning, match="asks for code of its own, which is never run; BertModel of transformers takes"
    ):
        load_embedder(str(folder), device="cpu")


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "adapter_model.bin"])
def test_a_pickle_is_never_taken(pickle, tmp_path):
    folder = tiny.encoder_folder(tmp_path / "encoder")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / pickle)
    with pytest.raises(EncoderError, match=f"in safetensors format, but .* holds only {pickle}"):
        load_embedder(str(folder), device="cpu")


def test_an_encoder_without_a_tokenizer_of_transformers_reads_a_text_of_any_length(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    raw = Tokenizer(models.WordLevel({"[UNK]": 0, "dog": 1, "cat": 2}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with torch.random.fork_rng():
        layer = StaticEmbedding(raw, embedding_dim=4)
    SentenceTransformer(modules=[layer], device="cpu").save(str(tmp_path))
    dog, cat = layer.embedding.weight.detach()[1:]
    E = load_embedder(str(tmp_path), device="cpu")(["dog " * 2000 + "cat " * 1000, ""])
    torch.testing.assert_close(E[0], normalize(2 * dog + cat, dim=0), atol=1e-5, rtol=0)
    assert E[1].count_nonzero() == 0


class TestKinship:
    def evaluated(self, encoder, heldout, tmp_path):
        from dqo.evaluation.run import evaluate
        from dqo.files.records import Group

        groups = [Group("0", "say", None, ["the dog", "a cat", "the bird"], ["eos"] * 3, None, {})]
        found = evaluate(groups, encoder=encoder, heldout_encoder=heldout, out=tmp_path / "out")
        return [note for note in found["notes"] if "no independent judge" in note]

    def test_two_encoders_of_one_vocabulary_are_noted(self, tmp_path):
        one, other = (
            load_embedder(str(tiny.encoder_folder(tmp_path / name, seed=seed)), device="cpu")
            for name, seed in (("one", 0), ("other", 1))
        )
        (note,) = self.evaluated(one, other, tmp_path)
        assert other.name in note
        assert "'policy:HuggingFaceTB/SmolLM2-135M-Instruct' reads another one" in note

    def test_others_are_not(self, tmp_path, tiny_policy_folder):
        one = load_embedder(str(tiny.encoder_folder(tmp_path / "one")), device="cpu")
        policy = load_embedder(f"policy:{tiny_policy_folder}", device="cpu")
        assert policy.vocabulary not in (None, one.vocabulary)
        for heldout in (policy, load_embedder("hashed"), None):
            assert self.evaluated(one, heldout, tmp_path) == []
        assert self.evaluated(load_embedder("hashed"), load_embedder("hashed:64"), tmp_path) == [], "not known"

    def test_the_packaged_two_are_siblings(self):
        from dqo.embedders.local import packaged_minilm, packaged_paraphrase
        from dqo.embedders.naming import kinship

        if not (packaged_minilm() and packaged_paraphrase()):
            pytest.skip("needs the packages of requirements-models.txt")
        names = "all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2"
        (note,) = kinship(*(load_embedder(name, device="cpu") for name in names))
        assert all(name in note for name in names)
