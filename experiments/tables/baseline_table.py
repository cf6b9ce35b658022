"""Whether a baseline without the group's own rows buys diversity in groups of 4: answered on tables, not on a model.

Run `python experiments/tables/baseline_table.py`: ten minutes on a CPU. Credits are compared among those that
pass, as `spread` compares them. Three baselines: the mean of the group, in which each row has a share; the mean credit
that the other rows have without it, times a ratio of earlier steps that makes passing worth nothing; and the group mean
stretched by K/(K - 1), as RLOO stretches it. Each is trained at a grid of alphas, and read off at equal alpha and at
equal quality.
"""

from collections.abc import Callable

import torch
from group_size_table import by_seed, crossing, read_off, with_interval
from table_policy import End, Tables, Training, make_tables, train
from torch import Tensor
from tqdm import tqdm

from dqo.core import centre_among, cosine_kernel, reaches, scaled_advantage, weight_kernel
from dqo.diversity.settings import DiversitySpec

GROUP = 4  # the paper's
ALPHAS = tuple(round(0.1 * 1.5**i, 2) for i in range(9))  # 0.1 to 2.56
SAME_ALPHA = 1.0
ALLOWED = 0.02  # quality that may be lost against reward alone
RIGHT = 0.5
KEPT = 0.9  # share of a ratio that a step leaves as it is


def credits_and_others(L: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's credit, and the credits that the others have in the group without it.

    Args:
        L: (P, G, G) kernel matrices; a row that does not pass is 0.

    Returns:
        (P, G) credits, and (P, G, G) whose [p, i, j] is the credit of j in the group without i; of i itself 0.
    """
    A = torch.eye(L.shape[-1], dtype=L.dtype) + L  # (P, G, G)
    B = torch.linalg.inv(A)  # (P, G, G)
    d = B.diagonal(dim1=-2, dim2=-1)  # (P, G)
    # Deleting row i turns B into its Schur complement, whose diagonal holds the others' credits.
    without = d.unsqueeze(-2) - B.square() / d.unsqueeze(-1)  # (P, G, G)
    own = torch.eye(L.shape[-1], dtype=torch.bool)  # (G, G)
    return -d.log(), -without.masked_fill(own, 1.0).log()


class OthersAtRatio:
    """The mean credit of the others without the row, times what makes passing worth nothing on average.

    The others' credits know nothing of the row, so the baseline adds no bias. They are larger than the row's own, as
    their group is smaller by one: the ratio, by how many pass, is that of earlier steps.
    """

    def __init__(self) -> None:
        self.ratio = torch.ones(GROUP + 1, dtype=torch.float64)  # by the number of rows that pass

    def __call__(self, L: Tensor, passes: Tensor) -> Tensor:
        """(P, G) credits less the baseline; 0 where fewer than three pass."""
        credit, others = credits_and_others(L)
        pairs = passes.unsqueeze(-1) & passes.unsqueeze(-2)  # (P, G, G)
        passing = passes.sum(-1)  # (P,)
        baseline = (others * pairs).sum(-1) / (passing - 1).clamp_min(1).unsqueeze(-1)  # (P, G)
        less = credit - self.ratio[passing].unsqueeze(-1) * baseline  # (P, G)
        for k in range(3, GROUP + 1):
            rows = passes & (passing == k).unsqueeze(-1)  # (P, G)
            if rows.any():
                now = credit[rows].mean() / baseline[rows].mean()
                self.ratio[k] = KEPT * self.ratio[k] + (1 - KEPT) * now
        return less.masked_fill(~passes | (passing < 3).unsqueeze(-1), 0.0)


def group_mean(L: Tensor, passes: Tensor) -> Tensor:
    """(P, G) what `spread` pays."""
    return centre_among(credits_and_others(L)[0], passes)


def stretched_mean(L: Tensor, passes: Tensor) -> Tensor:
    """(P, G) the same times K/(K - 1), K the number that pass: the mean of the others as the baseline."""
    passing = passes.sum(-1, keepdim=True)  # (P, 1)
    return group_mean(L, passes) * passing / (passing - 1).clamp_min(1)


BASELINES = {
    "group mean": lambda: group_mean,
    "group mean × K/(K − 1)": lambda: stretched_mean,
    "others without the row": OthersAtRatio,
}


def trained(tables: Tables, alpha: float, centred: Callable[[Tensor, Tensor], Tensor]) -> End:
    """Where a training ends by seed whose task reward is centred as GRPO does, and the credit by a baseline."""

    def advantages(reward: Tensor, E: Tensor) -> Tensor:
        passes = reaches(reward, RIGHT)  # (P', G)
        credit = centred(weight_kernel(cosine_kernel(E), passes.double()), passes)  # (P', G)
        return scaled_advantage(reward, reward, "none") + alpha * credit  # (P', G)

    end = train(tables, Training(DiversitySpec(), "none", GROUP), advantages=advantages)
    return End(by_seed(end.quality), by_seed(end.vendi), by_seed(end.distinct))


def main() -> None:
    """Train everything and print a table in Markdown: at equal alpha, then at equal quality."""
    tables, bar = make_tables(), tqdm(total=1 + len(BASELINES) * len(ALPHAS))
    plain = trained(tables, 0.0, group_mean)
    bar.update()
    ends: dict[str, dict[float, End]] = {name: {} for name in BASELINES}
    for name, make in BASELINES.items():
        for alpha in ALPHAS:
            ends[name][alpha] = trained(tables, alpha, make())
            bar.update()
    bar.close()
    print(f"reward alone: quality {plain.quality.mean():.3f}, distinct right of ten {with_interval(plain.distinct)}")
    print(f"\n| baseline | α | quality | distinct right of ten | of the group mean's |\n|{'---|' * 5}")
    floor = plain.quality.mean().item() - ALLOWED
    for same_quality in (False, True):
        first = None
        for name in BASELINES:
            alpha = crossing(ends[name], floor) if same_quality else SAME_ALPHA
            end = read_off(ends[name], alpha)
            first = first or end
            share = with_interval(end.distinct / first.distinct)
            print(f"| {name} | {alpha:.2f} | {end.quality.mean():.3f} | {with_interval(end.distinct)} | {share} |")


if __name__ == "__main__":
    main()
