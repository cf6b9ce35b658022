"""Whether `alpha: auto` finds as much diversity as the best fixed alpha above the same floor: answered on tables.

Run `python runs/study/auto_table.py`: minutes on a CPU. Fixed alphas are trained first. For each floor the best of
them is the one of the highest Vendi score whose mean quality keeps it; the controller is told the floor and nothing
else, and sees what a training shows it, the mean quality of each step's samples.
"""

import torch
from group_size_table import ALPHAS, best, trained
from table_policy import SEEDS, End, Tables, Training, make_tables, train
from tqdm import tqdm

from dqo.alpha import FlooredAlpha
from dqo.core.alpha_control import AlphaBounds, AlphaControl
from dqo.spec import DiversitySpec

GROUP = 8
SETTINGS = (("add", "group"), ("spread", "group"))
LOST = (0.01, 0.02, 0.03, 0.05)  # floors: so much below the quality of reward alone
RAMP = 0.5  # the recipes' quality_floor_ramp


def controlled(tables: Tables, rule: str, scale: str, floor: float) -> tuple[End, list[float]]:
    """Quality and Vendi score by seed with a controller a seed, and the alphas it ended with."""
    gate = {"quality_threshold": 0.5} if rule == "spread" else {}
    training = Training(DiversitySpec(combine=rule, **gate), scale, GROUP)
    ends, last = [], []
    for seed in range(SEEDS):
        source = FlooredAlpha(AlphaControl(AlphaBounds()), floor, ramp=RAMP)
        ends.append(
            train(
                tables.of_seed(seed), training,
                lambda step, s=source: s.now(step, training.steps),
                lambda step, quality, vendi, s=source: s.observe(quality, vendi, step, training.steps),
            )
        )  # fmt: skip
        last.append(source.now(training.steps, training.steps))
    return End(*(torch.stack([getattr(e, name).mean() for e in ends]) for name in ("quality", "vendi"))), last


def main() -> None:
    """Train everything and print a table in Markdown."""
    tables = make_tables()
    bar = tqdm(total=len(SETTINGS) * (1 + len(ALPHAS) + len(LOST)))
    print("| rule, scaling | floor | best fixed α: quality, Vendi | auto: quality, Vendi | of the best | last α |")
    print("|---|---|---|---|---|---|")
    for rule, scale in SETTINGS:
        fixed = {}
        for alpha in (0.0, *ALPHAS):
            fixed[alpha] = trained(tables, rule, scale, GROUP, alpha)
            bar.update()
        for lost in LOST:
            floor = fixed[0.0].quality.mean().item() - lost
            alpha = best(fixed, floor)
            top = fixed[alpha]
            auto, last = controlled(tables, rule, scale, floor)
            bar.update()
            print(
                f"| `{rule}`, {scale} | {floor:.3f} | {alpha:g}: {top.quality.mean():.3f}, {top.vendi.mean():.2f} | "
                f"{auto.quality.mean():.3f}, {auto.vendi.mean():.2f} | {auto.vendi.mean() / top.vendi.mean():.2f} | "
                f"{min(last):.2f} to {max(last):.2f} |",
                flush=True,
            )
    bar.close()


if __name__ == "__main__":
    main()
