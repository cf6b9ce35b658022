"""From a name to what decides that two responses mean the same."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from dqo.errors import RecipeError

if TYPE_CHECKING:
    from dqo.rewards.judge import JudgeReward

CHOICES = "embedding, noveltybench-1.0, noveltybench-1.0:<model folder> or nli:<model>"


class Equivalence(Protocol):
    """Pairs of texts -> whether they mean the same; its name goes into metrics.json."""

    name: str

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """One answer a pair."""
        ...


class SameByJudge:
    """An LLM judge as what decides that two responses mean the same.

    Args:
        judge: The judge.
    """

    def __init__(self, judge: "JudgeReward"):
        self.name, self._judge = judge.name, judge

    @property
    def notes(self) -> list[str]:
        """How many pairs could not be read, and what the server refused."""
        return self._judge.notes

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """One answer per pair."""
        return self._judge.same(pairs)


def load_equivalence(name: str) -> Equivalence | None:
    """The judge of equal meaning of a name.

    Args:
        name: `embedding` (the cosine of the encoder against its threshold), `noveltybench-1.0` (that benchmark's
            classifier), `noveltybench-1.0:FOLDER` (a local copy of it, with its tokenizer where the folder holds one),
            or `nli:MODEL` (entailment in both directions by that model).

    Returns:
        The judge, or None for `embedding`, which needs no texts.

    Raises:
        RecipeError: Another name.
        EncoderError: A model that cannot be loaded.
    """
    kind, _, model = name.partition(":")
    if name == "embedding":
        return None
    if kind == "noveltybench-1.0":
        from dqo.evaluation.pair_models import NOVELTYBENCH_CLASSIFIER, NoveltyBenchClassifier

        return NoveltyBenchClassifier(model or NOVELTYBENCH_CLASSIFIER)
    if kind == "nli" and model:
        from dqo.evaluation.pair_models import Entailment

        return Entailment(model)
    raise RecipeError(f"equivalence: expected {CHOICES}, got {name!r}.")
