"""An encoder of sentence-transformers small enough to make in a test: a random two-layer BERT of words."""

import torch

WORDS = ["the", "a", "dog", "cat", "bird", "runs", "sings", "red", "blue", "house", "tree", "near", "query:"]


def bert(seed=0):
    """A random BERT, large enough in its weights that different texts get different vectors."""
    from transformers import BertConfig, BertModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=4 + len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=32, initializer_range=0.5,
        )  # fmt: skip
        return BertModel(config).eval()


def tokenizer():
    """Words between [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        model_max_length=32, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def bare_folder(path, seed=0):
    """Saved by transformers alone: no modules.json, so no file that says how to pool."""
    bert(seed).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def encoder_folder(path, dense=False, seed=0, **prompts):
    """Saved by sentence-transformers: BERT, mean pooling, and a dense layer if asked for."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    bare = bare_folder(path.with_name(path.name + "-bare"), seed)
    layers = [Transformer(str(bare)), Pooling(16, "mean")]
    with torch.random.fork_rng():
        layers += [Dense(16, 8)] if dense else []
    SentenceTransformer(modules=layers, device="cpu", **prompts).save(str(path), create_model_card=False)
    return path
