"""Measuring what a model's responses are worth and how much they differ.

The functions here take lists of strings, embeddings or rewards and need torch at most (`self_bleu` also sacrebleu,
`self_rouge` rouge-score, `hypervolume` and `pareto_front` moocore, the two frames pandas). Sampling, the evaluation run
and the comparison of runs are modules of their own: `sample`, `run`, `compare`.
"""

from dqo.evaluation.attractors import Attractor, attractor_shares, find_attractors
from dqo.evaluation.definitions import DEFINITIONS, Definition, definition_of
from dqo.evaluation.frames import prompt_metrics_frame, responses_frame
from dqo.evaluation.meaning import (
    distinct_k,
    effective_rank,
    embedding_classes,
    group_log_volume,
    mean_cosine_distance,
    meaning_classes,
    noveltybench_rating,
    semantic_entropy,
    utility_k,
    vendi_score,
)
from dqo.evaluation.metrics import measure
from dqo.evaluation.quality import among_good, distinct_right_at_k, max_at_k, pass_at_k
from dqo.evaluation.responses import Responses, read_responses
from dqo.evaluation.statistics import hypervolume, pareto_front
from dqo.evaluation.words import compression_ratio, corpus_distinct_n, distinct_n, self_bleu, self_rouge

__all__ = [
    "DEFINITIONS",
    "Attractor",
    "Definition",
    "Responses",
    "among_good",
    "attractor_shares",
    "compression_ratio",
    "corpus_distinct_n",
    "definition_of",
    "distinct_k",
    "distinct_n",
    "distinct_right_at_k",
    "effective_rank",
    "embedding_classes",
    "find_attractors",
    "group_log_volume",
    "hypervolume",
    "max_at_k",
    "mean_cosine_distance",
    "meaning_classes",
    "measure",
    "noveltybench_rating",
    "pareto_front",
    "pass_at_k",
    "prompt_metrics_frame",
    "read_responses",
    "responses_frame",
    "self_bleu",
    "self_rouge",
    "semantic_entropy",
    "utility_k",
    "vendi_score",
]
