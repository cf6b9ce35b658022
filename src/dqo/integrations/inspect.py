"""Measures Inspect's epochs as groups: reducers for the Vendi score and for distinct right answers, and a scorer.

The reducers read the `answer` and the value of each epoch's score, so they stand beside any scorer that keeps answers;
`response` keeps the whole text.
"""

import math
from functools import cache

from inspect_ai.scorer import Score, Scorer, ScoreReducer, Target, mean, score_reducer, scorer, value_to_float
from inspect_ai.solver import TaskState

from dqo.embedders import Embedder, load_embedder
from dqo.evaluation.meaning import vendi_score
from dqo.evaluation.quality import distinct_right_at_k
from dqo.models.chat import TraceMarkers, completion_text
from dqo.settings import DEFAULT_ENCODER

_load = cache(load_embedder)
# Inspect leaves a score of NaN out of its metrics and shows the explanation.
_ANSWER = "has an answer: put the scorer dqo.integrations.inspect.response beside, or set Score(answer=...)"


@scorer(metrics=[mean()])
def response(trace_markers: str = "default") -> Scorer:
    """Keeps the text of the response as the answer; 1 where there is any, else 0.

    Args:
        trace_markers: Reasoning traces that are left out, see `dqo.models.chat.TraceMarkers.parse`.

    Returns:
        A scorer.
    """
    markers = TraceMarkers.parse(trace_markers)

    async def score(state: TaskState, target: Target) -> Score:
        text = completion_text(state.output.completion, markers)
        return Score(value=float(bool(text.strip())), answer=str(text))

    return score


# Named in full, or an editable installation would have other names than a wheel.
@score_reducer(name="dqo/vendi")
def vendi(encoder: str = DEFAULT_ENCODER, q: float = 1.0) -> ScoreReducer:
    """Reduces the epochs of a sample to the effective number of different answers, see `dqo.evaluation.vendi_score`.

    Args:
        encoder: As `dqo.embedders.load_embedder` takes it; loaded here, before anything is sampled.
        q: Order of the score.

    Returns:
        A reducer to [0, epochs]; NaN where no epoch has an answer.
    """
    embed: Embedder = _load(encoder)

    def reduce(scores: list[Score]) -> Score:
        answers = [score.answer for score in scores]
        if all(answer is None for answer in answers):
            return Score(value=math.nan, explanation=f"no epoch {_ANSWER}")
        return Score(value=vendi_score(embed([answer or "" for answer in answers]), q))

    return reduce


@score_reducer(name="dqo/distinct_right")
def distinct_right(k: int | None = None, least: float = 1.0) -> ScoreReducer:
    """Reduces the epochs of a sample to the expected number of distinct right answers among k of them.

    Two right answers are the same where their texts are, as the scorer extracted them.

    Args:
        k: Draws, at most the epochs; all of them where not given. As text: `dqo/distinct_right_4`.
        least: Value of a score from which on an answer is right; "C" is 1, "P" is 0.5.

    Returns:
        A reducer to [0, k]; NaN where fewer than k epochs are scored, or a right one has no answer.
    """
    as_number = value_to_float()

    def reduce(scores: list[Score]) -> Score:
        rated = [(score.answer, as_number(score.value)) for score in scores]
        # As Inspect's own pass_at: epochs that were not scored are left out, and of too few there is no value. Inspect
        # also reduces those that have come in so far.
        rated = [(answer, value) for answer, value in rated if not math.isnan(value)]
        if len(rated) < (k or 1):
            return Score(value=math.nan, explanation=f"{len(rated)} epochs are fewer than k = {k or 1}")
        if any(answer is None and value >= least for answer, value in rated):
            return Score(value=math.nan, explanation=f"not every right epoch {_ANSWER}")
        answers = [answer.strip() if value >= least else None for answer, value in rated]
        return Score(value=distinct_right_at_k(answers, k or len(answers)))

    return reduce
