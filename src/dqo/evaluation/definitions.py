"""What every metric means, as data for tables and reports: definition, direction, range, unit and source.

`definition_of` takes any name in metrics.json: `pass@10` is defined by `pass@k`, `heldout/vendi_1` by `vendi_1`.
"""

import re
from dataclasses import dataclass, replace

from dqo.errors import DQOError

QUALITY, MEANING, WORDS, HEALTH = "quality", "diversity of meaning", "diversity of words", "health"
NO_REWARD = "not every response has a reward"


@dataclass(frozen=True)
class Definition:
    """What a metric means.

    Attributes:
        title: Short name for a table or an axis.
        text: The definition in a sentence or two, for one prompt's n responses.
        kind: "quality", "diversity of meaning", "diversity of words" or "health".
        better: "higher", "lower", or "" where neither is better in itself. For diversity: more diverse.
        low: Least value; None where there is none.
        high: Largest value: a number, an expression in n (responses a prompt), or None where there is none.
        unit: What it counts.
        source: Paper or equation.
        undefined: When it is undefined for a prompt, and so null; "" for never.
    """

    title: str
    text: str
    kind: str
    better: str
    low: float | None
    high: float | str | None
    unit: str
    source: str
    undefined: str = ""


_NO_CLASSES = "nothing decides which responses mean the same"
_NO_WORDS = "white space does not separate the words of some response"
_VENDI = "Friedman and Dieng 2023; Pasarkar and Dieng 2024 for the order; docs/math.md eq. 6.1."

DEFINITIONS: dict[str, Definition] = {
    "quality": Definition(
        "Quality", "Mean reward of the responses.", QUALITY, "higher", None, None, "reward", "the task or reward given",
        NO_REWARD,
    ),
    "max@k": Definition(
        "Best of k", "Expected best reward of k draws without replacement from the n responses (unbiased).",
        QUALITY, "higher", None, None, "reward", "docs/math.md eq. 7.1.", NO_REWARD,
    ),
    "pass@k": Definition(
        "Pass at k", "Probability that k draws without replacement hold a response whose reward reaches the pass "
        "threshold: 1 - C(n-c, k)/C(n, k), c passing (unbiased).",
        QUALITY, "higher", 0, 1, "probability", "Chen et al. 2021; docs/math.md eq. 7.1.", NO_REWARD,
    ),
    "utility_k": Definition(
        "Utility of k", "Reward of the responses that open a new class of meaning, averaged with weights 0.8^i over "
        "the order they were sampled in; the others count 0.",
        QUALITY, "higher", None, None, "reward", "Zhang et al. 2025, NoveltyBench", f"{NO_REWARD}, or {_NO_CLASSES}",
    ),
    "classes": Definition(
        "Classes of meaning", "How many classes the responses fall into when each joins the first class whose first "
        "member means the same; NoveltyBench 1.0's distinct_k.",
        MEANING, "higher", 0, "n", "responses", "Zhang et al. 2025, NoveltyBench", _NO_CLASSES,
    ),
    "semantic_entropy": Definition(
        "Semantic entropy", "Entropy of the shares of responses in each class of meaning.",
        MEANING, "higher", 0, "log n", "nats", "Kuhn et al. 2023; Farquhar et al. 2024 (discrete variant)",
        f"{_NO_CLASSES}, or all are blank",
    ),
    "vendi_1": Definition(
        "Vendi score", "Effective number of different responses: exp of the Shannon entropy of the eigenvalues of the "
        "cosine matrix divided by n.",
        MEANING, "higher", 0, "n", "responses", _VENDI,
    ),
    "vendi_2": Definition(
        "Vendi score, order 2", "The same with the Rényi entropy of order 2: common modes count more.",
        MEANING, "higher", 0, "n", "responses", _VENDI,
    ),
    "vendi_inf": Definition(
        "Vendi score, order ∞", "One over the largest eigenvalue: only the commonest mode counts.",
        MEANING, "higher", 0, "n", "responses", _VENDI,
    ),
    "effective_rank": Definition(
        "Effective rank", "exp of the entropy of the singular values of the unit embeddings, divided by their sum.",
        MEANING, "higher", 0, "n", "directions", "Roy and Vetterli 2007",
    ),
    "cosine_distance": Definition(
        "Cosine distance", "Mean of 1 - cosine over all pairs of responses. Two tight clusters already reach much of "
        "the maximum.",
        MEANING, "higher", 0, 2, "1 - cosine", "docs/math.md eq. 6.2.", "the encoder finds no text in any response",
    ),
    "log_volume": Definition(
        "Log-volume", "log det(I + L), L the cosine matrix of the responses: the quantity that training raises.",
        MEANING, "higher", 0, "n log 2", "nats", "arXiv 2509.04784; docs/math.md eq. 3.1.",
    ),
    "good/vendi_1": Definition(
        "Vendi score of good answers", "Vendi score of the responses whose reward reaches the pass threshold; 0 where "
        "there is none. As even as those are: it can rise when one of several good copies fails.",
        MEANING, "higher", 0, "n", "responses", "effective semantic diversity, Shypula et al. 2025", NO_REWARD,
    ),
    "good/classes": Definition(
        "Classes of good answers", "Classes of meaning among the responses whose reward reaches the pass threshold.",
        MEANING, "higher", 0, "n", "responses", "effective semantic diversity, Shypula et al. 2025",
        f"{NO_REWARD}, or {_NO_CLASSES}",
    ),
    "distinct_n": Definition(
        "Distinct n-grams", "Different n-grams over all n-grams of the responses, split at white space. Falls with the "
        "amount of text.",
        WORDS, "higher", 0, 1, "share", "Li et al. 2016; docs/math.md eq. 7.2.",
        f"no response has n words, or {_NO_WORDS}",
    ),
    "corpus/distinct_n": Definition(
        "Distinct n-grams, corpus", "The same pooled over the responses to all prompts: sees a model that answers "
        "every prompt alike.",
        WORDS, "higher", 0, 1, "share", "Li et al. 2016", f"no response has n words, or {_NO_WORDS}",
    ),
    "self_bleu": Definition(
        "Self-BLEU", "Mean BLEU-4 of each response against the others as references, by sacrebleu.",
        WORDS, "lower", 0, 100, "BLEU", "Zhu et al. 2018; docs/math.md eq. 7.2.",
        f"fewer than two responses have text, or {_NO_WORDS}",
    ),
    "self_rouge": Definition(
        "Self-ROUGE", "Mean ROUGE-L F-measure over all pairs of responses, by rouge-score; Latin letters only.",
        WORDS, "lower", 0, 1, "ROUGE-L", "Lin 2004",
        "fewer than two responses have text, or some response has other letters than a to z",
    ),
    "compression_ratio": Definition(
        "Compression ratio", "Bytes of the responses over the bytes gzip makes of them. Rises with the amount of text.",
        WORDS, "lower", 0, None, "ratio", "Shaib et al. 2024", "fewer than two responses have text",
    ),
    "encoder_disagreement": Definition(
        "Disagreement of encoders", "(1 - Spearman correlation) / 2 of the leave-one-out credits that the responses "
        "would earn by the encoder and by the held-out one: 0 the same order, 1/2 unrelated. More than before training "
        "says that the policy found what only its own encoder tells apart.",
        HEALTH, "lower", 0, 1, "share", "docs/signals.md, hack detectors",
        "one of the two encoders sees no difference",
    ),
    "words": Definition(
        "Length", "Mean number of words of a response, its reasoning trace left out, split at white space.",
        HEALTH, "", 0, None, "words", "count",
        _NO_WORDS,
    ),
    "truncated": Definition(
        "Truncated", "Share of responses cut off at the token limit.", HEALTH, "lower", 0, 1, "share", "count"
    ),
    "empty": Definition(
        "Empty", "Share of responses without any text, reasoning traces not counted.",
        HEALTH, "lower", 0, 1, "share", "count",
    ),
}  # fmt: skip

_NUMBERED = (
    (re.compile(r"(pass|max)@(\d+)"), r"\1@k"),
    (re.compile(r"((?:corpus/)?distinct)_(\d+)"), r"\1_n"),
)


def definition_of(name: str) -> Definition:
    """The definition of a metric under any name it has in metrics.json.

    Args:
        name: A key of `DEFINITIONS`, one with a number in place of k or n, or one of them after `heldout/`.

    Returns:
        The definition, with the number or the held-out judge in its title and text.

    Raises:
        DQOError: An unknown name.
    """
    if name in DEFINITIONS:
        return DEFINITIONS[name]
    if name.startswith("heldout/"):
        found = definition_of(name.removeprefix("heldout/"))
        text = f"{found.text} By an encoder the policy was not trained against."
        return replace(found, title=f"{found.title}, held-out encoder", text=text)
    for pattern, general in _NUMBERED:
        if match := pattern.fullmatch(name):
            found = DEFINITIONS[match.expand(general)]
            # "Best of 10", "Distinct 2-grams"
            return replace(found, title=re.sub(r"\b[kn]\b", match[2], found.title))
    raise DQOError(f"expected the name of a metric, one of {', '.join(DEFINITIONS)}, got {name!r}.")
