"""`dqo probe RECIPE`: a few groups of the policy as it is, what a training would see in them, and what to change.

Nothing is trained and nothing is written. Responses come from the sampler of `dqo eval`; rewards, answer spans, encoder
and credit are those of the recipe.
"""

import argparse
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from statistics import fmean

import torch
from torch import Tensor

from dqo.core import reaches, scored_std, tied_groups
from dqo.diversity.credit import shape_reward
from dqo.diversity.settings import GATES, DiversitySpec
from dqo.diversity.tricks import low_quality_credit
from dqo.errors import printable
from dqo.evaluation.engines import Asked, LocalModel
from dqo.evaluation.meaning import distinct_k, embedding_classes, same_meaning
from dqo.evaluation.quality import judged
from dqo.evaluation.sampling import sample_from
from dqo.evaluation.statistics import Interval, wilson_interval
from dqo.files.records import Group, Prompt
from dqo.models.chat import TraceMarkers
from dqo.models.policy import best_device, load_policy
from dqo.rewards.calling import CheckedReward, Row, Tried, reward_records, try_reward
from dqo.rewards.loading import checked_span
from dqo.tasks import load_encoder
from dqo.train.dry_run import show
from dqo.train.prepare import Prepared
from dqo.train.recipe import load_recipe, outside_training

RIGHT = 0.5  # lowest reward that is right where nothing says which one is, as in `dqo eval`
_TRIED = 8  # rows that the reward sees again
# Tokens to sample, half a minute for 135 million weights on two cores, and bounds of the groups that they make.
_TOKENS, _LEAST, _MOST = 3072, 4, 16
_OUTCOMES = 4  # values of a reward that tells right from wrong, at most
_SHOWN_GROUPS, _SHOWN_ANSWERS, _SHOWN_LETTERS = 3, 8, 100
# From these shares on something is said; of distinct answers, below this number per group.
_MANY_TIES, _MANY_CUT, _MANY_EMPTY, _FEW_HOLD, _ONE_ANSWER = 0.5, 0.2, 0.1, 0.5, 1.5
# Spread of alpha times the credit over that of the reward: advised today, and too little and too much to start with;
# and the highest alpha advised over the lowest.
_ADVISED, _LITTLE, _MUCH, _WIDEST = 0.5, 0.05, 1.5, 4
_POOR_HALF = 0.6  # share of what diversity pays that goes to the poorer half of a group; 0.5 is fair
# Settings of sampling that a recipe may have and `dqo eval` sets aside, with their neutral values.
_WHOLE = {"top_p": (1.0,), "top_k": (0, None), "min_p": (0.0, None), "repetition_penalty": (1.0,)}


def run(args: argparse.Namespace) -> None:
    """Prints what a few groups of the recipe's policy show, three of them to read, and what to change."""
    found = probe(Prepared(load_recipe(args.recipe, args.settings)), args.groups, args.threshold)
    for what, text in found.lines():
        show(what, text)
    print("\nGroups to read: the reward, what alpha adds beside the group's mean, how often, the response.", end="")
    print("", *found.to_read(), sep="\n\n")
    advice = list(found.advice())
    print("\nWhat to change:" if advice else "\nNothing in these groups asks for a change.")
    for number, sentence in enumerate(advice, start=1):
        print(f"{number}. {sentence}")
    print("\nNothing was trained or written.")


def probe(prepared: Prepared, groups: int | None = None, threshold: float | None = None) -> "Probe":
    """Samples groups of responses to prompts of the training split, and scores them as a training would.

    Without a number of groups there are as many as 3,072 tokens answer, from 4 to 16. Without a threshold, the lowest
    reward that is right is the recipe's `quality_threshold`, else 0.5. What `dqo train` would refuse is refused.
    """
    recipe, config, spec = prepared.recipe, prepared.config, prepared.config.diversity_spec()
    groups = groups or min(_MOST, max(_LEAST, _TOKENS // (config.num_generations * config.max_completion_length)))
    prompts = random.Random(recipe.seed).sample(prepared.prompts, min(groups, len(prepared.prompts)))
    # Whatever can be refused is refused before the policy's weights are read.
    _ = prepared.outline
    score = partial(_score, prepared.reward_functions(), [entry.weight for entry in recipe.entries])
    embed = load_encoder(outside_training(config.encoder, recipe.model), prepared.task, **config.encoder_options())
    span = checked_span(prepared.task.answer_span)
    sampled = _sample(prepared, prompts)
    rows = [row for group in sampled for row in _rows(group)]
    answers = [span(text) for _, text, _ in rows]  # N
    E = embed(answers).detach().cpu().unflatten(0, (len(prompts), -1))  # (P, G, D)
    task = score(rows).unflatten(0, (len(prompts), -1))  # (P, G)
    per_unit = replace(spec, alpha=1.0) if pays(spec) else DiversitySpec(diversity="none")
    combined, credit = shape_reward(task, E, per_unit)  # (P, G)
    # The first response of every group, then the second: neighbours answer different prompts.
    few = torch.arange(len(rows)).view(task.shape).T.flatten()[:_TRIED].tolist()
    return Probe(
        prepared, sampled, task, combined - task, credit.vendi, *_distinct(answers, E, embed.name),
        spec.quality_threshold if threshold is None else threshold,
        try_reward(score, [rows[i] for i in few], task.flatten()[few]),
    )  # fmt: skip


def pays(spec: DiversitySpec) -> bool:
    """Tells whether diversity is a part of the reward that embeddings alone decide."""
    return spec.signal.acts_on_reward and not spec.needs


def _sample(prepared: Prepared, prompts: Sequence[Prompt]) -> list[Group]:
    """Draws a group per prompt as `dqo eval` does; every response is a `Response`."""
    recipe, config = prepared.recipe, prepared.config
    asked = Asked(
        seed=recipe.seed, max_new_tokens=config.max_completion_length, temperature=config.temperature,
        system_prompt=recipe.system_prompt, chat_template_kwargs=recipe.trainer.get("chat_template_kwargs"),
        trace_markers=config.trace_markers,
    )  # fmt: skip
    device = "cpu" if config.use_cpu else best_device()
    model, tokenizer = load_policy(recipe.model, dtype=recipe.dtype, device=device)
    at_once = config.per_device_train_batch_size * config.steps_per_generation  # as many as in a training
    source = LocalModel(model, tokenizer, asked, at_once)
    groups = sample_from(source, prompts, config.num_generations)
    return judged(groups, TraceMarkers.parse(config.trace_markers), source.settings())


def _rows(group: Group) -> Iterator[Row]:
    prompt = Prompt(group.id, group.prompt, group.reference, group.meta)
    for text, finish in zip(group.responses, group.finish, strict=True):
        yield prompt, text, finish == "eos"


def _score(rewards: Sequence[CheckedReward], weights: Sequence[float], rows: Sequence[Row]) -> Tensor:
    """Weighted sum of F rewards, as in training: (N,) float64, NaN where nothing could score a row."""
    columns = [reward_records(reward, *map(list, zip(*rows, strict=True))) for reward in rewards]  # F x N
    values = [[math.nan if value is None else value for value in column] for column in columns]
    table = torch.tensor(values, dtype=torch.float64)  # (F, N)
    total = (table * torch.tensor(weights, dtype=torch.float64).unsqueeze(1)).nansum(0)  # (N,)
    return total.masked_fill(table.isnan().all(0), math.nan)


def _distinct(answers: Sequence[str], E: Tensor, encoder: str) -> tuple[list[int], str]:
    """Distinct answers of each group, and by what: meaning where that is measured for the encoder, else text."""
    P, G, _ = E.shape
    if (least := same_meaning(encoder)) is not None:
        return [distinct_k(embedding_classes(rows, least)) for rows in E], "meaning"
    # As everywhere, a response says nothing where its row is zero: a blank one, or no answer to a task's own features.
    said = [[text.strip() for text, row in zip(answers[p * G :], E[p], strict=False) if row.any()] for p in range(P)]
    return [len(set(texts)) for texts in said], "text"


@dataclass(frozen=True)
class Probe:
    """What P groups of G responses show of a run before its first step.

    Attributes:
        prepared: The recipe, looked up.
        groups: P groups.
        task: (P, G) task rewards, NaN where nothing could score a response.
        paid: (P, G) what a unit of alpha adds to them.
        vendi: (P,) effective number of different answers, in [1, G].
        distinct: P numbers of distinct answers.
        by: What tells these apart, "meaning" or "text".
        threshold: Lowest reward that is right; None where nothing says which one is.
        tried: How the reward took responses that it was given again.
    """

    prepared: Prepared
    groups: list[Group]
    task: Tensor
    paid: Tensor
    vendi: Tensor
    distinct: list[int]
    by: str
    threshold: float | None
    tried: Tried

    @cached_property
    def spec(self) -> DiversitySpec:
        """What diversity means in the run."""
        return self.prepared.config.diversity_spec()

    @cached_property
    def right(self) -> Tensor:
        """Which responses are right: (P, G) bool."""
        return reaches(self.task, RIGHT if self.threshold is None else self.threshold)

    @property
    def has_one_answer(self) -> bool:
        """Whether groups hold about one answer; none at all is another fault."""
        return 0.5 <= fmean(self.distinct) < _ONE_ANSWER

    @cached_property
    def ties(self) -> tuple[int, int, int]:
        """Numbers of groups whose rewards tie, of those in which all are right, and of those in which none is."""
        right = self.right[tied_groups(self.task)]  # (tied, G)
        return len(right), int(right.all(1).sum()), int((~right.any(1)).sum())

    @cached_property
    def chance(self) -> Interval:
        """Chance that a group holds a right answer, with Wilson's interval over the prompts."""
        # Whether the G that were drawn hold one is the unbiased estimate for their prompt, pass@k at k = n: 0 or 1.
        return wilson_interval(int(self.right.any(1).sum()), len(self.groups))

    @cached_property
    def spreads(self) -> tuple[float, float]:
        """Spread inside a group of the reward, and of what a unit of alpha adds to the responses that may be paid."""
        # Under a gate the others get nothing, and how many there are says nothing of the credit.
        paid = self.paid.masked_fill(~self.spec.passes(self.task), math.nan)  # (P, G)
        return _pooled_std(self.task), _pooled_std(paid)

    @cached_property
    def beside(self) -> float:
        """Spread of the task reward where the credit is added, which is after its scaling if that is decoupled."""
        reward, config = self.spreads[0], self.prepared.config
        if not getattr(config, "decouple_credit", False):
            return reward
        std = reward if config.scale_rewards == "group" else float(self.task[~self.task.isnan()].std())
        return reward / std if std > 0 else 0.0

    @cached_property
    def most(self) -> float:
        """What a unit of alpha pays a good response beside copies of another one more than it pays a copy."""
        G = self.task.shape[1]
        E = torch.eye(2, dtype=torch.float64)[[0] * (G - 1) + [1]].unsqueeze(0)  # (1, G, 2)
        reward = torch.full((1, G), max(1.0, self.spec.quality_threshold or 0.0), dtype=torch.float64)  # (1, G)
        paid = shape_reward(reward, E, replace(self.spec, alpha=1.0))[0] - reward  # (1, G)
        return float(paid[0, -1] - paid[0, 0])

    @cached_property
    def advised(self) -> tuple[float, float] | None:
        """Alphas to start from; None where rewards or credits of every group tie."""
        reward, credit = self.beside, self.spreads[1]
        if not pays(self.spec) or min(reward, credit, self.most) <= 0:
            return None
        # Where most answers differ today's credits are nearly equal, and those of a group that collapses are not.
        low, high = sorted((reward / self.most, _ADVISED * reward / credit))
        highest = self.spec.signal.highest_alpha
        return min(low, highest), min(high, _WIDEST * low, highest)

    @cached_property
    def unfinished(self) -> tuple[float, float]:
        """Shares of responses that were cut off, and of those without text."""
        pairs = [pair for group in self.groups for pair in zip(group.responses, group.finish, strict=True)]
        return fmean(finish != "eos" for _, finish in pairs), fmean(not text.strip() for text, _ in pairs)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yields what was measured: a name and a text each."""
        (P, G), recipe, config = self.task.shape, self.prepared.recipe, self.prepared.config
        yield "policy", f"{recipe.model} as it is, temperature {config.temperature:g}; {P} prompts of {recipe.task}"
        yield (
            "answers",
            f"{fmean(self.distinct):.1f} distinct among the {G} of a group (by {self.by}; {min(self.distinct)} to "
            f"{max(self.distinct)}), Vendi {float(self.vendi.mean()):.1f}",
        )
        tied, all_right, none_right = self.ties
        yield "ties", f"rewards equal in {tied} of {P} groups: {all_right} all right, {none_right} with nothing right"
        share, (mean, low, high) = float(self.right.double().mean()), self.chance
        said = f"{RIGHT:g} on (--threshold says which)" if self.threshold is None else f"{self.threshold:g} on"
        yield "right", f"{share:.0%} of the responses, by a reward from {said}{self._distinct_right()}"
        yield "chance", f"{mean:.0%} that a group holds a right one, 95 % interval {low:.0%} to {high:.0%}"
        reward, credit = self.spreads
        yield "reward", f"{float(self.task.nanmean()):.3g} on average, spread inside a group {reward:.2g}"
        yield from self._alpha_lines(reward, credit)
        cut, empty = self.unfinished
        yield "ended", f"{1 - cut:.0%} within {config.max_completion_length} tokens; {empty:.0%} are empty"
        left_out = [f"{n}={getattr(config, n)}" for n, neutral in _WHOLE.items() if getattr(config, n) not in neutral]
        if left_out:
            yield "note", f"sampled without {', '.join(left_out)}; a training samples with it, and sees less diversity"

    def _distinct_right(self) -> str:
        if (key := getattr(self.prepared.task, "answer_key", None)) is None:
            return ""
        pairs = zip(self.groups, self.right.tolist(), strict=True)
        found = [{key(p, text) for (p, text, _), right in zip(_rows(g), r, strict=True) if right} for g, r in pairs]
        return f"; {fmean(map(len, found)):.1f} distinct right ones per group"

    def _alpha_lines(self, reward: float, credit: float) -> Iterator[tuple[str, str]]:
        """What a unit of alpha buys, and the alpha of the recipe."""
        if not pays(self.spec):
            yield "credit", f"diversity={self.spec.diversity!r} adds nothing to the reward that embeddings alone decide"
            return
        whom = "the good responses of a group" if self.spec.combine in GATES else "a group"
        apart = f"one answer earns {self.most:.2g} more than each of {self.task.shape[1] - 1} copies of another"
        yield "credit", f"per unit of alpha, spread inside {whom} {credit:.2g}; {apart}"
        if self.advised:
            now, then = (self.spec.alpha * buys / self.beside for buys in (credit, self.most))
            buys = f"{self.spec.alpha:g} buys {now:.2g} times the reward's spread, {then:.2g} times against copies"
            yield "alpha", f"{buys}; start from {self.advised[0]:.2g} to {self.advised[1]:.2g}"

    def to_read(self) -> Iterator[str]:
        """Yields three groups as text: the least diverse, the middle one and the most diverse."""
        order = self.vendi.argsort().tolist()
        step = (len(order) - 1) / (_SHOWN_GROUPS - 1)
        for place in sorted({round(number * step) for number in range(_SHOWN_GROUPS)}):
            yield self._group(order[place])

    def _group(self, p: int) -> str:
        # Every response of a group is compared with the group's mean.
        group, added = self.groups[p], (self.spec.alpha * (self.paid[p] - self.paid[p].nanmean())).tolist()
        rows = zip(group.responses, group.finish, self.task[p].tolist(), added, strict=True)
        counted = Counter((text, finish, reward, round(more, 2) + 0.0) for text, finish, reward, more in rows)
        # The most frequent first, of these the best.
        best = sorted(counted.items(), key=lambda item: (-item[1], -item[0][2]))[:_SHOWN_ANSWERS]
        asked = getattr(group.prompt, "messages", [{"content": group.prompt}])[-1]["content"]
        head = f"--- {printable(group.id)}: {self.distinct[p]} distinct, Vendi {float(self.vendi[p]):.1f}"
        lines = [head, _one_line(asked, 3 * _SHOWN_LETTERS)]
        for (text, finish, reward, more), times in best:
            end = "" if finish == "eos" else " [cut off]"
            lines.append(f"  {reward:.2f} {more:+.2f} {times:3} × {_one_line(text) or '(empty)'}{end}")
        rest = len(counted) - len(best)
        return "\n".join(lines + [f"  … and {rest} more"] * bool(rest))

    def advice(self) -> Iterator[str]:
        """Yields what to change, in two sentences at most each: the reward, the policy, alpha."""
        yield from self._on_the_reward()
        yield from self._on_the_policy()
        if pays(self.spec) and self.spec.alpha:
            yield from self._on_alpha()

    def _on_the_reward(self) -> Iterator[str]:
        tried, spread, unscored = self.tried, self.spreads[0], float(self.task.isnan().double().mean())
        if unscored:
            yield f"The reward could not score {unscored:.0%} of the responses (None); they are left out of groups."
        if tried.alike:
            otherwise = "" if tried.certain else ", or show it an answer that you know is right: it may have seen none"
            yield (
                f"The reward ignores the response: it gave {tried.alike} the same as the policy's own. Make it read "
                f"`completions`{otherwise}."
            )
        if spread and tried.noise > spread / 2:
            yield (
                f"The reward is noise: it differs by {tried.noise:.2g} between two calls with the same response, by "
                f"{spread:.2g} between responses of a group. Make it depend on the response alone."
            )

    def _on_the_policy(self) -> Iterator[str]:
        config, (P, G), (cut, empty) = self.prepared.config, self.task.shape, self.unfinished
        if self.has_one_answer:
            yield (
                f"The policy has one answer: {fmean(self.distinct):.1f} distinct per group, and nothing to compare. "
                f"Raise trainer.temperature (now {config.temperature:g}), or start from a model that varies, such as "
                "the one before its last tuning."
            )
        if self.ties[0] >= _MANY_TIES * P:
            yield f"The rewards of {self.ties[0]} of {P} groups tie and teach nothing: {self._why_tied()}."
        # A reward of many values knows better and worse, and no right, unless somebody says so.
        elif self.chance.mean < _FEW_HOLD and (self.threshold is not None or len(self.task.unique()) <= _OUTCOMES):
            yield (
                f"Only {self.chance.mean:.0%} of the groups hold a right answer. Use a stronger policy, easier prompts "
                f"or a reward for part of the way, or raise trainer.num_generations (now {G})."
            )
        if cut >= _MANY_CUT:
            yield (
                f"{cut:.0%} of the responses were cut off. Raise trainer.max_completion_length (now "
                f"{config.max_completion_length}), or ask for shorter answers."
            )
        if empty >= _MANY_EMPTY:
            yield f"{empty:.0%} of the responses are empty. Look with a dry run at what the policy reads."

    def _why_tied(self) -> str:
        tied, all_right, none_right = self.ties
        if self.tried.alike:
            return "the reward ignores the response"
        if self.has_one_answer:
            return "the answers of a group are alike"
        if 2 * none_right >= tied:
            return f"nothing is right in {none_right} of them. Use a stronger policy, easier prompts, or a finer reward"
        if 2 * all_right >= tied:
            paid = pays(self.spec) and self.spec.alpha
            spreads = ", or leave them to alpha, which spreads right answers" if paid else ""
            return f"all is right in {all_right} of them. Use harder prompts{spreads}"
        return "different answers are worth the same. Use a finer reward"

    def _on_alpha(self) -> Iterator[str]:
        reward, credit, alpha = self.beside, self.spreads[1], self.spec.alpha
        gated = self.spec.combine in GATES
        if gated and not credit:
            yield (
                "Diversity pays nothing yet: no group holds different responses that reach quality_threshold "
                f"{self.spec.quality_threshold:g}. Lower it where a training will not bring more of them."
            )
        if self.advised and alpha * max(credit, self.most) < _LITTLE * reward:
            yield f"Alpha {alpha:g} buys next to nothing of the reward's spread. Raise it to {self.advised[0]:.2g}."
        if self.advised and alpha * credit > _MUCH * reward and not gated:
            yield (
                f"Alpha {alpha:g} buys {alpha * credit / reward:.2g} times the reward's spread: being different pays "
                f"more than being good. Lower it to {self.advised[1]:.2g} or less."
            )
        poor = low_quality_credit(self.paid, self.task)
        if poor > _POOR_HALF and self.spec.combine == "add" and self.spec.signal.place == "credit":
            yield (
                f"{poor:.0%} of what diversity pays goes to the poorer half of a group. Set combine to spread with a "
                "quality_threshold, or to quality_weighted, and wrong answers are not paid for being different."
            )


def _pooled_std(values: Tensor) -> float:
    """Standard deviation of (P, G) numbers around the mean of their group, NaN left out."""
    free = (~values.isnan()).sum(1, keepdim=True).sub(1).clamp_min(0)  # (P, 1)
    return float(((scored_std(values, 1).square() * free).sum() / free.sum().clamp_min(1)).sqrt())


def _one_line(text: str, letters: int = _SHOWN_LETTERS) -> str:
    """Makes untrusted text one line that is fit for a terminal, and leaves out its end."""
    shown = printable(" ".join(text.split()))
    return shown if len(shown) <= letters else f"{shown[: letters - 2]} …"
