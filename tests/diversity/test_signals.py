"""Each rival's number worked out by hand, and what it must never do."""

import ast
import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from dqo.core import cosine_kernel, leave_one_out
from dqo.diversity.credit import DiversitySpec, Evidence, discount, read_signal, shape_reward
from dqo.diversity.evidence import Signal
from dqo.diversity.signals import (
    SIGNALS,
    clusters_by_pairs,
    correct_entropy,
    elliptical_bonus,
    graph_cut_share,
    mean_entropy,
    pairwise_distance,
    partition_share,
    pass_at_k_advantage,
    unlikeliness_share,
    vendi_gain,
)

F64 = torch.float64
A, B, C = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]
EMPTY = [0.0, 0.0, 0.0]


def kernel(*rows):
    return cosine_kernel(torch.tensor(rows, dtype=F64))


def test_pairwise_distance_by_hand():
    # two copies and one orthogonal: 1/2, 1/2, 1; the empty row counts for nobody
    assert_close(pairwise_distance(kernel(A, A, B)), torch.tensor([0.5, 0.5, 1.0], dtype=F64))
    assert_close(pairwise_distance(kernel(A, A, B, EMPTY)), torch.tensor([0.5, 0.5, 1.0, 0.0], dtype=F64))
    assert pairwise_distance(kernel(A, EMPTY)).tolist() == [0.0, 0.0]


def test_pairwise_distance_prefers_two_clusters_where_the_volume_prefers_spread():
    half = math.sqrt(0.5)
    clusters = kernel(A, A, [-1.0, 0.0, 0.0], [-1.0, 0.0, 0.0])
    spread = kernel(A, B, C, [half, -half, 0.0])
    assert pairwise_distance(clusters).mean() > 1.3 > pairwise_distance(spread).mean()
    assert leave_one_out(clusters).mean() < leave_one_out(spread).mean()


def test_vendi_gain_by_hand():
    # a, a, b: entropy of (2/3, 1/3); without b: 1 response; without an a: 2 responses
    whole = math.exp(-2 / 3 * math.log(2 / 3) - 1 / 3 * math.log(1 / 3))
    expected = torch.tensor([whole - 2, whole - 2, whole - 1], dtype=F64)
    assert_close(vendi_gain(kernel(A, A, B)), expected)
    assert expected[0] < 0, "a copy beside an outlier is punished"
    assert_close(vendi_gain(kernel(A, A, B, EMPTY))[3], torch.tensor(0.0, dtype=F64), atol=1e-12, rtol=0)
    assert vendi_gain(kernel(A, EMPTY)).tolist() == [1.0, 0.0]


def test_vendi_gain_of_a_batch_is_that_of_its_groups():
    E = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=F64)
    L = cosine_kernel(E)
    assert_close(vendi_gain(L), torch.stack([vendi_gain(group) for group in L]))


@pytest.mark.parametrize("ridge", [0.1, 1.0])
def test_elliptical_bonus_by_its_definition_in_feature_space(ridge):
    H = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    H = H / H.norm(dim=1, keepdim=True)
    inverse = torch.linalg.inv(ridge * torch.eye(3, dtype=F64) + sum(torch.outer(h, h) for h in H))
    expected = torch.stack([h @ inverse @ h for h in H])
    assert_close(elliptical_bonus(cosine_kernel(H), ridge), expected)
    assert_close(expected, 1 - torch.exp(-leave_one_out(cosine_kernel(H), ridge)))


def test_elliptical_bonus_by_hand():
    assert_close(elliptical_bonus(kernel(A, A, B, EMPTY)), torch.tensor([1 / 3, 1 / 3, 1 / 2, 0], dtype=F64))


def test_clusters_close_transitively():
    near = math.cos(0.5)  # neighbours are half a radian apart, the ends a whole one
    L = kernel(A, [near, math.sin(0.5), 0.0], [math.cos(1.0), math.sin(1.0), 0.0], C)
    assert clusters_by_pairs(L >= 0.8).tolist() == [0, 0, 0, 3]
    assert clusters_by_pairs(L >= 0.9).tolist() == [0, 1, 2, 3]
    copies = Evidence(kernel=kernel(A, [2.0, 0, 0], A, B), spans=torch.ones(4, dtype=torch.bool))
    spec = DiversitySpec(diversity="partition", same_threshold=1.0)
    assert read_signal(copies, spec).tolist() == pytest.approx([1 / 3] * 3 + [1.0]), "copies reach 1 but for rounding"


def test_clusters_of_a_long_chain_given_one_way_and_in_a_bad_order():
    same = torch.zeros(2, 6, 6, dtype=torch.bool)
    for i, j in ((5, 0), (0, 4), (4, 1), (1, 3)):
        same[0, i, j] = True
    assert clusters_by_pairs(same).tolist() == [[0, 0, 2, 0, 0, 0], [0, 1, 2, 3, 4, 5]]


def test_partition_share_by_hand():
    cluster = torch.tensor([0, 0, 2, 0])
    filled = torch.tensor([True, True, True, True])
    assert_close(partition_share(cluster, filled), torch.tensor([1 / 3, 1 / 3, 1.0, 1 / 3], dtype=F64))
    all_same = partition_share(torch.zeros(4, dtype=torch.int64), filled)
    assert all_same.tolist() == [0.1] * 4, "never less than a tenth"
    one_empty = partition_share(cluster, torch.tensor([True, True, True, False]))
    assert_close(one_empty, torch.tensor([0.5, 0.5, 1.0, 0.1], dtype=F64))
    assert partition_share(torch.zeros(1, dtype=torch.int64), filled[:1]).tolist() == [1.0]


def test_graph_cut_share_by_hand_and_never_above_one():
    assert_close(graph_cut_share(kernel(A, A, B)), torch.tensor([1 / 2, 1 / 2, 1.0], dtype=F64))
    opposite = kernel(A, [-1.0, 0.0, 0.0])
    assert graph_cut_share(opposite).tolist() == [1.0, 1.0], "the published sum would be 0 here"


def test_discount_is_the_product_for_good_rewards_and_safe_below_zero():
    share = torch.tensor([0.25, 1.0], dtype=F64)
    assert discount(torch.tensor([2.0, 2.0]), share, 1.0).tolist() == [0.5, 2.0]
    assert discount(torch.tensor([2.0, 2.0]), share, 0.5).tolist() == [1.25, 2.0]
    redundant, rare = discount(torch.tensor([-2.0, -2.0]), share, 1.0).tolist()
    assert (redundant, rare) == (-3.5, -2.0)
    assert -2.0 * 0.25 > -2.0 * 1.0, "the plain product pays the redundant one more"
    assert discount(torch.tensor([math.nan]), share[:1], 1.0).isnan().all()


def test_unlikeliness_share_by_hand():
    logp = torch.tensor([-1.0, -5.0, -3.0, -9.0])
    everyone = torch.ones(4, dtype=torch.bool)
    assert unlikeliness_share(logp, everyone).tolist() == [0.25, 0.75, 0.5, 1.0]
    assert unlikeliness_share(torch.tensor([-2.0, -2.0]), everyone[:2]).tolist() == [0.75, 0.75]
    some = torch.tensor([True, True, False, True])
    assert unlikeliness_share(logp, some).tolist() == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])


@pytest.mark.parametrize(("n", "right", "k"), [(6, 2, 3), (5, 1, 2), (4, 3, 4), (6, 4, 1), (5, 4, 3), (6, 5, 2)])
def test_pass_at_k_advantage_is_the_mean_over_all_subsets(n, right, k):
    correct = torch.arange(n) < right
    hit = {s: float(correct[list(s)].any()) for s in itertools.combinations(range(n), k)}
    mean = sum(hit.values()) / len(hit)
    sigma = math.sqrt(mean * (1 - mean))
    expected = []
    for i in range(n):
        mine = [value for subset, value in hit.items() if i in subset]
        expected.append((sum(mine) / len(mine) - mean) / sigma if sigma else 0.0)
    got = pass_at_k_advantage(correct, torch.ones(n, dtype=torch.bool), k)
    assert_close(got, torch.tensor(expected, dtype=F64))


def test_pass_at_k_passes_over_the_unscored_and_has_nothing_to_say_in_sure_groups():
    correct = torch.tensor([[True, False, False, False], [True, True, True, True], [False] * 4])
    scored = torch.tensor([[True, True, True, False], [True] * 4, [True] * 4])
    got = pass_at_k_advantage(correct, scored, 2)
    assert_close(got[0, :3], pass_at_k_advantage(correct[0, :3], scored[0, :3], 2))
    assert got[0, 3] == 0
    assert got[0, 0] > 0 > got[0, 1]
    assert (got[1:] == 0).all()
    assert (pass_at_k_advantage(correct[:1], scored[:1], 4) == 0).all(), "three scored, four to draw"


def test_mean_entropy_is_over_tokens_that_count():
    entropies = torch.tensor([[1.0, 3.0, 9.0], [2.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert mean_entropy(entropies, mask).item() == 2.0
    assert mean_entropy(entropies, 0 * mask).item() == 0.0


def test_correct_entropy_by_hand_and_its_gradient_on_right_responses_only():
    logps = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]], requires_grad=True)
    mask = torch.tensor([[1, 1], [1, 0]])
    term = correct_entropy(logps, logps.detach(), mask, torch.tensor([True, False]))
    assert term.item() == pytest.approx(1.5 / 2)
    term.backward()
    # d/dlogp of -(pi/pi_old) log pi at pi = pi_old is -(1 + log pi): a sure token (log pi > -1) is made less sure
    assert_close(logps.grad, torch.tensor([[0.0, 1.0 / 4], [0.0, 0.0]]))


ROOT = Path(__file__).parents[2]
READS = {"logp": "log-probabilities", "old_logps": "log-probabilities", "correct": "right or wrong",
         "entropies": "token entropies", "marginal": "prompts and answers"}  # fmt: skip


@pytest.mark.parametrize("name", SIGNALS)
def test_a_row_names_fields_that_exist(name):
    row = SIGNALS[name]
    assert set(row.needs) <= {field.name for field in dataclasses.fields(Evidence)}
    assert set(row.settings) <= {field.name for field in dataclasses.fields(DiversitySpec)}
    assert (row.function is None) == (row.place == "none")
    assert row.usual_alpha is None or row.usual_alpha <= row.highest_alpha


def test_the_table_of_the_docs_is_made_from_the_rows():
    page = (ROOT / "docs" / "reference" / "signals.md").read_text()
    table = page[page.index("| name | place |") :].split("\n\n")[0].splitlines()[2:]
    expected = []
    for name, row in SIGNALS.items():
        reads = ", ".join(READS[need] for need in row.needs) or ("embeddings" if row.acts_on_reward else "–")
        if "same_answer" in row.settings:
            reads += ", or a classifier"
        rloo = "no" if "old_logps" in row.needs else "`beta=0`" if row.place == "advantage" else "yes"
        label = f"`{name}` (default)" if name == DiversitySpec().diversity else f"`{name}`"
        place, usual = row.place.replace("none", "–"), f"{row.usual_alpha:g}" if row.usual_alpha else "–"
        expected.append(f"| {label} | {place} | {reads} | {usual} | {row.rewards} | yes | {rloo} |")
    assert sorted(table) == sorted(expected)
    for name, row in SIGNALS.items():
        section = page[page.index(f"### {name}\n") :].split("\n### ")[0]
        assert row.source == "–" or " ".join(row.source.split()) in " ".join(section.split()), name


def test_nothing_but_the_table_knows_a_signal_by_its_name():
    """A name in a comparison is a place that a new signal would have to find; the baseline "none" is no signal."""
    names = set(SIGNALS) - {"none"}
    found = []
    for path in (ROOT / "src" / "dqo").rglob("*.py"):
        if path.name.startswith("judge"):
            continue  # an LLM judge is asked for a partition of a group, which is no signal
        for node in ast.walk(ast.parse(path.read_text())):
            # `"entropy" in outputs` of TRL's head asks what was computed, not which signal was chosen.
            if isinstance(node, ast.Compare) and ast.unparse(node) != "'entropy' in outputs":
                words = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)} & names
                found += [f"{path.relative_to(ROOT)}:{node.lineno}: {word}" for word in words]
    assert found == []


def test_a_row_that_is_added_shapes_the_reward(monkeypatch):
    """Half of what is right is taken from whoever stands after the first: no other file knows the toy."""
    toy = Signal(
        "discount",
        "the first of a group",
        "–",
        lambda seen, spec: torch.where(seen.correct, 1.0 - 0.5 * (torch.arange(4) > 0).double(), 1.0),
        usual_alpha=1.0,
        highest_alpha=1.0,
        needs=("correct",),
    )
    monkeypatch.setitem(SIGNALS, "toy", toy)
    reward = torch.tensor([[1.0, 0.0, 1.0, 0.25]], dtype=F64)
    spec = DiversitySpec(diversity="toy", quality_threshold=0.5)
    shaped, group = shape_reward(reward, torch.eye(4, dtype=F64)[None], spec)
    assert shaped.tolist() == [[1.0, 0.0, 0.5, 0.25]]
    assert group.credit.tolist() == [[1.0, 1.0, 0.5, 1.0]]
