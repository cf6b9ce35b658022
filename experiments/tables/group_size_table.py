"""Whether one alpha serves groups of 4, 8 and 16, in nats and in the unit credit: answered on tables, not on a model.

Run `python experiments/tables/group_size_table.py`: a quarter of an hour on a CPU. Every step samples 16 answers a
table, in groups of 4, 8 or 16. At each group size it finds the alpha that costs 0.02 of reward alone's quality, and
what the one found at 4 gives at 8 and 16.
"""

import itertools
import math
from typing import Any

import torch
from table_policy import SEEDS, End, Tables, Training, make_tables, train
from torch import Tensor
from tqdm import tqdm

from dqo.diversity.settings import DiversitySpec
from dqo.sweep.results import student_interval

GROUPS = (4, 8, 16)
UNITS = ("nats", "unit")
ALPHAS = tuple(round(0.06 * 1.5**i, 3) for i in range(12))  # 0.06 to 5.2
SCALES = ("none", "group")  # what advantages are divided by
ALLOWED = 0.02  # quality that may be lost against reward alone


def by_seed(values: Tensor) -> Tensor:
    """(SEEDS,) means over continents."""
    return values.view(-1, SEEDS).mean(0)


def what_is_paid(rule: str, **settings: Any) -> DiversitySpec:
    """The rule with its threshold between a city elsewhere and one on the continent, where it takes one."""
    return DiversitySpec(combine=rule, quality_threshold=0.5 if rule == "spread" else None, **settings)


def trained(tables: Tables, rule: str, scale: str, group: int, alpha: float, unit: str = "nats") -> End:
    """Where a training at a fixed alpha ends, by seed."""
    end = train(tables, Training(what_is_paid(rule, alpha=alpha, credit_scale=unit), scale, group))
    return End(by_seed(end.quality), by_seed(end.vendi), by_seed(end.distinct))


def with_interval(values: Tensor) -> str:
    """Mean of (SEEDS,) values and half the width of its 95 % interval."""
    interval = student_interval(values.tolist())
    return f"{interval['mean']:.2f} ± {interval['high'] - interval['mean']:.2f}"


def crossing(ends: dict[float, End], floor: float) -> float:
    """The alpha whose mean quality is the floor, on the line between two of the grid over log alpha.

    Args:
        ends: By alpha above 0, growing.
        floor: Mean quality to keep.

    Raises:
        ValueError: The floor is crossed nowhere on the grid.
    """
    for (alpha, kept), (larger, below) in itertools.pairwise(ends.items()):
        high, low = kept.quality.mean().item(), below.quality.mean().item()
        if high >= floor > low:
            return alpha * (larger / alpha) ** ((high - floor) / (high - low))
    raise ValueError(f"expected the floor {floor:.3f} between two alphas of {list(ends)}; widen the grid")


def read_off(ends: dict[float, End], alpha: float) -> End:
    """Where a training ends by seed at an alpha between two of the grid, on the line over log alpha."""
    for (smaller, one), (larger, other) in itertools.pairwise(ends.items()):
        if smaller <= alpha <= larger:
            share = math.log(alpha / smaller) / math.log(larger / smaller)
            return End(
                *(torch.lerp(a, b, share) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))
            )
    raise ValueError(f"expected an alpha between two of {list(ends)}, got {alpha}; widen the grid")


def lines(scale: str, unit: str, ends: dict[int, dict[float, End]], plain: dict[int, End]) -> list[str]:
    """A row a group size: its own best alpha, and what the one found at the smallest group gives there."""
    own = {group: crossing(ends[group], plain[group].quality.mean().item() - ALLOWED) for group in GROUPS}
    rows = []
    for group in GROUPS:
        top, at = read_off(ends[group], own[group]), read_off(ends[group], own[GROUPS[0]])
        lost = (plain[group].quality - at.quality).mean()
        rows.append(
            f"| {scale} | {unit} | {group} | {own[group]:.2f} | {top.vendi.mean():.2f} | {at.vendi.mean():.2f} | "
            f"{with_interval(at.vendi / top.vendi)} | {lost:.3f} |"
        )
    return rows


def main() -> None:
    """Train everything and print a table in Markdown, after a line for each reward-only training."""
    tables, rows = make_tables(), []
    bar = tqdm(total=len(SCALES) * len(GROUPS) * (1 + len(UNITS) * len(ALPHAS)))
    for scale in SCALES:
        plain = {}
        ends: dict[str, dict[int, dict[float, End]]] = {unit: {group: {} for group in GROUPS} for unit in UNITS}
        for group in GROUPS:
            plain[group] = trained(tables, "add", scale, group, 0.0)
            bar.update()
            for unit in UNITS:
                for alpha in ALPHAS:
                    ends[unit][group][alpha] = trained(tables, "add", scale, group, alpha, unit)
                    bar.update()
            mean = plain[group].quality.mean(), plain[group].vendi.mean()
            print(f"{scale}, groups of {group}: reward alone {mean[0]:.3f}, Vendi score {mean[1]:.2f}", flush=True)
        for unit in UNITS:
            rows += lines(scale, unit, ends[unit], plain)
    bar.close()
    print("| scaling | unit | G | best α | its Vendi | Vendi at the α of G = 4 | of the best | quality lost |")
    print("|---|---|---|---|---|---|---|---|\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
