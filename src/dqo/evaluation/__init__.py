"""Measuring what a model's responses are worth and how much they differ.

The functions here need torch at most (`self_bleu` also sacrebleu); sampling, the evaluation run and the comparison of
runs are modules of their own: `sample`, `run`, `compare`.
"""

from dqo.evaluation.geometry import group_log_volume, mean_cosine_distance, vendi_score
from dqo.evaluation.ngrams import distinct_n, self_bleu
from dqo.evaluation.passk import max_at_k, pass_at_k

__all__ = [
    "distinct_n",
    "group_log_volume",
    "max_at_k",
    "mean_cosine_distance",
    "pass_at_k",
    "self_bleu",
    "vendi_score",
]
