"""Whether `alpha: auto` finds as much diversity as the best fixed alpha above the same floor: answered on tables.

Run `python experiments/tables/auto_table.py`: a quarter of an hour on a CPU. Fixed alphas are trained first. The best
fixed alpha for a floor lies between two of the grid, so that it and its Vendi score are read off the line between them.
The controller is told the floor and nothing else, and sees what a training shows it, the mean quality of each step's
samples.
"""

from dataclasses import astuple

import torch
from group_size_table import ALPHAS, crossing, read_off, trained, what_is_paid, with_interval
from table_policy import SEEDS, End, Tables, Training, make_tables, train
from tqdm import tqdm

from dqo.diversity.alpha import AlphaControl, FlooredAlpha

GROUP = 8
SETTINGS = (("add", "group"), ("spread", "group"))
LOST = (0.01, 0.02, 0.03, 0.05)  # floors: so much below the quality of reward alone
RAMP = 0.5  # the recipes' quality_floor_ramp


def controlled(tables: Tables, rule: str, scale: str, floor: float) -> tuple[End, list[float]]:
    """Where trainings end by seed with a controller per seed, and the alphas it ended with."""
    training = Training(what_is_paid(rule), scale, GROUP)
    ends, last = [], []
    for seed in range(SEEDS):
        source = FlooredAlpha(AlphaControl(), floor, ramp=RAMP)
        ends.append(
            train(
                tables.of_seed(seed), training,
                lambda step, s=source: s.now(step, training.steps),
                lambda step, quality, vendi, s=source: s.observe(quality, vendi, step, training.steps),
            )
        )  # fmt: skip
        last.append(source.now(training.steps, training.steps))
    by_seed = (torch.stack([value.mean() for value in values]) for values in zip(*map(astuple, ends), strict=True))
    return End(*by_seed), last


def main() -> None:
    """Train everything and print a table in Markdown."""
    tables = make_tables()
    bar = tqdm(total=len(SETTINGS) * (len(ALPHAS) + len(LOST)))
    print("| rule, scaling | floor | fixed α at the floor: Vendi | auto: quality, Vendi | of the fixed | last α |")
    print("|---|---|---|---|---|---|")
    for rule, scale in SETTINGS:
        plain, fixed = trained(tables, rule, scale, GROUP, 0.0), {}
        for alpha in ALPHAS:
            fixed[alpha] = trained(tables, rule, scale, GROUP, alpha)
            bar.update()
        for lost in LOST:
            floor = plain.quality.mean().item() - lost
            alpha = crossing(fixed, floor)
            best = read_off(fixed, alpha).vendi  # (SEEDS,)
            auto, last = controlled(tables, rule, scale, floor)
            bar.update()
            print(
                f"| `{rule}`, {scale} | {floor:.3f} | {alpha:.2f}: {best.mean():.2f} | "
                f"{auto.quality.mean():.3f}, {auto.vendi.mean():.2f} | {with_interval(auto.vendi / best)} | "
                f"{min(last):.2f} to {max(last):.2f} |",
                flush=True,
            )
    bar.close()


if __name__ == "__main__":
    main()
