"""Whether one alpha serves groups of 4, 8 and 16, in nats and in the unit credit: answered on tables, not on a model.

Run `python runs/study/group_size_table.py`: a quarter of an hour on a CPU. Every step samples 16 answers a table, in
groups of 4, 8 or 16. Of each setting it takes the alpha of the highest Vendi score that costs at most 0.02 of reward
alone's quality, once at each group size, and compares what the one found at 4 gives elsewhere.
"""

import math

from table_policy import SEEDS, End, Tables, Training, make_tables, train
from torch import Tensor
from tqdm import tqdm

from dqo.spec import DiversitySpec

GROUPS = (4, 8, 16)
UNITS = ("nats", "unit")
ALPHAS = tuple(round(0.04 * 1.5**i, 3) for i in range(11))  # 0.04 to 2.3
SETTINGS = (("add", "none"), ("add", "group"), ("spread", "group"))  # rule of combination, reward scaling
ALLOWED = 0.02  # quality that may be lost against reward alone
STUDENT = 2.262  # two-sided 95 % of 9 degrees of freedom


def by_seed(values: Tensor) -> Tensor:
    """(SEEDS,) means over continents."""
    return values.view(-1, SEEDS).mean(0)


def trained(tables: Tables, rule: str, scale: str, group: int, alpha: float, unit: str = "nats") -> End:
    """Quality and Vendi score by seed after a training at a fixed alpha."""
    gate = {"quality_threshold": 0.5} if rule == "spread" else {}
    spec = DiversitySpec(alpha=alpha, combine=rule, credit_scale=unit, **gate)
    end = train(tables, Training(spec, scale, group))
    return End(by_seed(end.quality), by_seed(end.vendi))


def best(ends: dict[float, End], floor: float) -> float | None:
    """The alpha of the highest Vendi score among those whose mean quality keeps the floor."""
    kept = [alpha for alpha, end in ends.items() if end.quality.mean() >= floor]
    return max(kept, key=lambda alpha: ends[alpha].vendi.mean().item(), default=None)


def lines(rule: str, scale: str, unit: str, ends: dict[int, dict[float, End]], plain: dict[int, End]) -> list[str]:
    """A row a group size: its own best alpha, and what the one chosen at the smallest group gives there."""
    own = {group: best(ends[group], plain[group].quality.mean().item() - ALLOWED) for group in GROUPS}
    chosen = own[GROUPS[0]]
    rows = []
    for group in GROUPS:
        if own[group] is None or chosen is None:
            rows.append(f"| `{rule}`, {scale} | {unit} | {group} | none keeps the floor | | | |")
            continue
        at, top = ends[group][chosen], ends[group][own[group]]
        ratio = at.vendi / top.vendi  # (SEEDS,)
        half = STUDENT * ratio.std().item() / math.sqrt(SEEDS)
        lost = (plain[group].quality - at.quality).mean()
        rows.append(
            f"| `{rule}`, {scale} | {unit} | {group} | {own[group]:g}: {top.vendi.mean():.2f} | "
            f"{chosen:g}: {at.vendi.mean():.2f} | {ratio.mean():.2f} ± {half:.2f} | {lost:.3f} |"
        )
    return rows


def main() -> None:
    """Train everything and print a table in Markdown, after a line for each reward-only training."""
    tables, rows = make_tables(), []
    bar = tqdm(total=len(SETTINGS) * len(GROUPS) * (1 + len(UNITS) * len(ALPHAS)))
    for rule, scale in SETTINGS:
        plain = {}
        ends: dict[str, dict[int, dict[float, End]]] = {unit: {group: {} for group in GROUPS} for unit in UNITS}
        for group in GROUPS:
            plain[group] = trained(tables, rule, scale, group, 0.0)
            bar.update()
            for unit in UNITS:
                for alpha in ALPHAS:
                    ends[unit][group][alpha] = trained(tables, rule, scale, group, alpha, unit)
                    bar.update()
            mean = plain[group].quality.mean(), plain[group].vendi.mean()
            print(f"{rule}, {scale}, groups of {group}: reward alone {mean[0]:.3f}, Vendi score {mean[1]:.2f}")
        for unit in UNITS:
            rows += lines(rule, scale, unit, ends[unit], plain)
    bar.close()
    print("| rule, scaling | unit | G | best α: Vendi | α of G = 4: Vendi | of the best | quality lost |")
    print("|---|---|---|---|---|---|---|\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
