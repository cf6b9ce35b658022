"""Judges of equal meaning: both directions, the right label, the benchmark's token layout."""

import pytest
import torch

from dqo.errors import EncoderError, RecipeError
from dqo.evaluation import same_meaning as pair_models
from dqo.evaluation.same_meaning import Entailment, NoveltyBenchClassifier, load_equivalence

WORDS = [f"w{i}" for i in range(40)]


def folder(path, labels, seed=0):
    """A random BERT classifier of text pairs."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(path)  # fmt: skip
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=300, id2label=dict(enumerate(labels)), initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(path)
    return str(path)


def alone(judge, a, b, **options):
    """Logits of one pair, by transformers without a batch."""
    inputs = judge._encoder.tokenizer(a, b, return_tensors="pt", **options)
    return judge._encoder.model(**inputs).logits[0]


@pytest.fixture(scope="module")
def nli(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("nli"), ["CONTRADICTION", "ENTAILMENT", "NEUTRAL"])


def test_both_directions_must_entail(nli):
    judge = Entailment(nli, device="cpu")
    pairs = [(f"w{i} w{i + 1}", f"w{3 * i % 40}") for i in range(30)]

    def one_way(a, b):
        return judge._encoder.config.id2label[alone(judge, a, b).argmax().item()] == "ENTAILMENT"

    forth, back = [one_way(a, b) for a, b in pairs], [one_way(b, a) for a, b in pairs]
    expected = [a and b for a, b in zip(forth, back, strict=True)]
    assert forth != expected != back, "in some pair only one direction entails"
    assert any(expected)
    assert judge(pairs) == expected


def test_a_model_without_entailment_and_a_pair_too_long_are_refused(nli, tmp_path):
    with pytest.raises(EncoderError, match=r"a label 'entailment', but .* has \['no', 'yes'\]"):
        Entailment(folder(tmp_path, ["no", "yes"]))
    with pytest.raises(EncoderError, match=r"reads 300 tokens, got a pair of 504 that begins 'w1 w1"):
        Entailment(nli, device="cpu")([("w1 " * 500, "w2")])
    with pytest.raises(EncoderError, match="a sequence classifier from"):
        Entailment(str(tmp_path / "nothing"))


def test_short_responses_are_the_classifiers_to_judge_too(tmp_path):
    """A rule of shared words would join "do it" and "do not do it"."""
    model = folder(tmp_path, ["different", "similar"], seed=3)
    judge = NoveltyBenchClassifier(model, device="cpu")
    pairs = [(f"w{i} w{i + 1}", f"w{i} w{j} w{i + 1}") for i in range(12) for j in (20, 30)]
    similar = [alone(judge, a, b).softmax(-1)[1].item() for a, b in pairs]
    judge.threshold = sum(sorted(similar)[11:13]) / 2
    assert judge(pairs) == [p > judge.threshold for p in similar]
    assert 0 < sum(judge(pairs)) < len(pairs), "though all share two words of three"


def test_the_benchmarks_classifier_sees_128_tokens_of_each_and_its_threshold(tmp_path):
    model = folder(tmp_path, ["different", "similar"], seed=3)
    judge = NoveltyBenchClassifier(model, device="cpu")
    long = [" ".join(WORDS[(i * j + j) % 40] for j in range(130)) for i in range(12)]
    pairs = list(zip(long, [f"{text} w1" for text in reversed(long)], strict=True))
    similar = [alone(judge, a, b, max_length=259, truncation=True).softmax(-1)[1].item() for a, b in pairs]
    judge.threshold = sum(sorted(similar)[5:7]) / 2
    assert judge(pairs) == [p > judge.threshold for p in similar]
    assert sum(judge(pairs)) == 6, "both answers occur"
    assert NoveltyBenchClassifier(model, device="cpu").threshold == 0.102


def test_a_local_copy_of_the_benchmarks_classifier_needs_no_hub(tmp_path, monkeypatch):
    """With its tokenizer in the folder nothing else is loaded; without, the tokenizer of the hub."""
    model = folder(tmp_path / "whole", ["different", "similar"], seed=3)
    loaded = load_equivalence(f"noveltybench-1.0:{model}")
    assert loaded._encoder.tokenizer.convert_tokens_to_ids("w7") == 4 + 7
    assert len(loaded([("w1 w2 w3 w4 w5 w6", "w1"), ("w1", "w1")])) == 2
    asked = []
    monkeypatch.setattr(pair_models, "_load", lambda model, tokenizer, device: asked.append(tokenizer))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "whole" / name).unlink()
    load_equivalence(f"noveltybench-1.0:{model}")
    load_equivalence("noveltybench-1.0")
    assert asked == ["microsoft/deberta-v3-large"] * 2


def test_names_of_judges(nli):
    assert load_equivalence("embedding") is None
    assert load_equivalence(f"nli:{nli}").name == f"nli:{nli}"
    for wrong in ("nli", "nli:", "magic"):
        with pytest.raises(RecipeError, match=r"equivalence: expected embedding, judge, judge:<file>, "):
            load_equivalence(wrong)
