"""Comparing evaluated runs: paired differences over the shared prompts, and tables."""

import io
import json

import pytest

from dqo.errors import DataError
from dqo.evaluation.compare import compare, comparison_table, difference_table, short_comparison
from dqo.evaluation.definitions import headline, tabled
from dqo.evaluation.run import evaluate
from dqo.evaluation.statistics import on_common_prompts, paired_differences
from dqo.files.evaluation import likeness_cautions, run_notes
from dqo.files.records import Group, read_groups

NOTHING = {"mean": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "p_holm": 1.0, "prompts": 24}
COLOURS = ["red", "green", "blue", "cyan"]


def lengthy(completions, **columns):
    return [min(1.0, len(text) / 10) for text in completions]


class SameText:
    """Two responses mean the same where they are equal."""

    name = "same text"

    def __call__(self, pairs):
        return [a == b for a, b in pairs]


def answer(folder, words, choose, *, n=4, ids=range(24), reward=lengthy, prompt="prompt {}"):
    """An evaluated run in which response j to prompt i is choose(i, j)."""
    groups = [
        Group(f"q{i}", prompt.format(i), [], [choose(i, j) for j in range(n)], ["eos"] * n, None, {}) for i in ids
    ]
    evaluate(groups, encoder=words, reward=reward, equivalence=SameText(), out=folder)
    return folder


@pytest.fixture
def varied(words, tmp_path):
    return answer(tmp_path / "varied", words, lambda i, j: COLOURS[j])


@pytest.fixture
def collapsed(words, tmp_path):
    return answer(tmp_path / "collapsed" / "eval", words, lambda i, j: "green green" if i % 4 else COLOURS[j])


def of_all(comparison):
    """The cautions without the notes of each run."""
    own = run_notes(comparison["runs"])
    return [caution for caution in comparison["cautions"] if caution not in own]


def printed(table):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return console.file.getvalue()


def test_comparison_of_two_runs(varied, collapsed, tmp_path):
    comparison = compare([varied, collapsed.parent], tmp_path / "out")
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == comparison
    assert (comparison["baseline"], list(comparison["runs"]), comparison["n_shared"]) == (
        "varied", ["varied", "collapsed"], 24,
    )  # fmt: skip
    vendi = comparison["differences"]["collapsed"]["vendi_1"]
    assert vendi["mean"] == pytest.approx(-3 * 18 / 24)
    assert vendi["high"] < 0
    assert vendi["p"] < 0.001
    assert vendi["p"] < vendi["p_holm"] < 0.05
    assert comparison["differences"]["collapsed"]["empty"] == NOTHING
    assert comparison["front"] == ["varied", "collapsed"]
    assert of_all(comparison) == []
    assert any(caution.startswith("collapsed: distinct_3") for caution in comparison["cautions"]), "why there is a –"
    for name, run in comparison["runs"].items():
        told = {metric: value | {"prompts": 24} for metric, value in run["metrics"].items() if value}
        told |= {"distinct_2": comparison["shared"][name].get("distinct_2")}  # defined for fewer prompts
        assert comparison["shared"][name] == told, "of the same prompts, what metrics.json says"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["comparison.json"]


def test_the_table_marks_what_differs(varied, collapsed, tmp_path):
    comparison = compare([varied, collapsed], tmp_path / "out")
    rows, differences = (
        {line.split("│")[1].strip(): line for line in printed(table).splitlines() if line.startswith("│")}
        for table in (comparison_table(comparison), difference_table(comparison))
    )
    assert "4.000 [4.000, 4.000]" in rows["vendi_1"]
    assert "*" in differences["vendi_1"]
    assert "*" not in differences["empty"]
    assert "pass@k" in rows
    assert "pass@4" not in rows, "the same number twice"


def lines(comparison, width=120):
    found = short_comparison(comparison, width)
    assert len(found) <= 14
    assert max(map(len, found[:-1])) <= width
    return {line.split("  ")[0]: " ".join(line.split()) for line in found}


def test_the_short_comparison_says_what_is_better_in_words(varied, collapsed, tmp_path):
    """Of 24 prompts the collapsed run answers 18 with the one long answer: 3 classes fewer, and more reward."""
    said = lines(compare([varied, collapsed], tmp_path / "out"))
    assert next(iter(said)).startswith("24 prompts × 4 responses; better or worse than varied where Holm's p < 0.05")
    assert said["quality"] == "quality 0.400 0.850 better [+0.325, +0.550]"
    assert said["vendi_1"] == "vendi_1 4.000 1.750 worse [−2.750, −1.625]"
    assert "better" in said["max@k"]
    assert said["truncated"] == "truncated 0.000 0.000 not shown [+0.000, +0.000]"
    assert "differs" in said["words"], "longer is neither better nor worse"
    assert said["no other beats in both quality and diversity: varied, collapsed"]
    assert list(said)[-1].startswith("--all prints every metric of every pair, ")


def test_the_short_comparison_fits_its_width(words, varied, collapsed, tmp_path):
    others = [answer(tmp_path / f"another-{name}", words, lambda i, j: COLOURS[j % 2]) for name in "bcdefg"]
    comparison = compare([varied, collapsed, *others], tmp_path / "out")
    assert "[" not in lines(compare([varied, collapsed, others[0]], tmp_path / "out"), 72)["quality"]
    narrow = lines(comparison, 70)
    assert "another-b" in narrow[""]
    assert "another-g" not in narrow[""]
    assert list(narrow)[-1].startswith("--all prints every metric of every pair, 4 arms, ")


def test_seeds_of_an_arm_are_one_row(words, tmp_path):
    """Two seeds of one arm differ by more than its mean from the other's, which the prompts alone cannot see."""
    seeds = {"low-seed0": 0.4, "low-seed1": 0.2, "high-seed0": 0.5, "high-seed1": 0.3}
    folders = [
        answer(tmp_path / name, words, lambda i, j: COLOURS[j],
               reward=lambda completions, r=r, **_: [r for _ in completions])
        for name, r in seeds.items()
    ]  # fmt: skip
    for folder in folders:  # rewards of one name, or they would not be compared
        document = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps(document | {"scoring": {"reward": "constant"}}))
    comparison = compare(folders, tmp_path / "out")
    assert comparison["arms"] == {"low": ["low-seed0", "low-seed1"], "high": ["high-seed0", "high-seed1"]}
    assert comparison["baseline"] == "low"
    assert comparison["shared"]["high"]["quality"]["mean"] == pytest.approx(0.4)
    # Variance of each mean: (0.1^2 + 0.1^2) / 1 / 2; Student's t at 1 degree of freedom is 12.706.
    assert comparison["shared"]["high"]["quality"]["high"] == pytest.approx(0.4 + 12.706 * 0.1, abs=1e-3)
    found = comparison["differences"]["high"]["quality"]
    assert (found["mean"], found["low"] < 0 < found["high"]) == (pytest.approx(0.1), True)
    # Two variances of 0.01 with 1 degree each make 0.02 with 2, for which p is 1 - t / sqrt(t^2 + 2).
    t = 0.1 / 0.02**0.5
    assert found["p"] == pytest.approx(1 - t / (t**2 + 2) ** 0.5)
    assert "high (2 seeds)" in short_comparison(comparison, 120)[1]
    alone = compare([folders[0], folders[2]], tmp_path / "out")
    assert list(alone["arms"]) == ["low-seed0", "high-seed0"]
    assert alone["differences"]["high-seed0"]["quality"]["p_holm"] < 0.05, "of the prompts alone"
    mixed = of_all(compare([folders[0], *folders[2:]], tmp_path / "out"))
    assert mixed == ["There is one run of low-seed0, so that no spread between training seeds is counted there."]


def test_seeds_and_prompts_by_hand():
    """Prompt differences 2 and 4, seed means 2 and 4: two variances of 1 with 1 degree of freedom each."""
    base = [{"a": {"q": 0.0}, "b": {"q": 0.0}}] * 2
    other = [{"a": {"q": 1.0}, "b": {"q": 3.0}}, {"a": {"q": 3.0}, "b": {"q": 5.0}}]
    found = paired_differences([base, other], ["q"])[0, 1]["q"]
    assert found.mean == 3.0
    assert (found.low, found.high) == pytest.approx((3 - 4.302653 * 2**0.5, 3 + 4.302653 * 2**0.5), abs=1e-5)
    assert found.p == 0.5, "two prompts show nothing, whatever the seeds"


def test_differences_are_paired_by_id_over_the_shared_prompts(words, varied, tmp_path):
    other = answer(tmp_path / "other", words, lambda i, j: COLOURS[j], ids=range(40, 16, -1))
    comparison = compare([varied, other], tmp_path / "out")
    assert comparison["n_shared"] == 7
    assert comparison["differences"]["other"]["quality"] == NOTHING | {"prompts": 7}


def test_a_run_asked_easier_prompts_too_is_not_ahead_for_that(words, tmp_path):
    """The first is worse on each of 20 shared prompts and better on 20 that only it was asked."""
    half = lambda folder, good, ids: answer(  # noqa: E731
        tmp_path / folder, words, lambda i, j: COLOURS[j], ids=ids,
        reward=lambda completions, meta, prompts, **_: [good(int(p.split()[1])) for p in prompts],
    )  # fmt: skip
    half("wide", lambda i: 0.4 if i < 20 else 1.0, range(40))
    half("narrow", lambda i: 0.5, range(20))
    comparison = compare([tmp_path / "wide", tmp_path / "narrow"], tmp_path / "out")
    assert comparison["differences"]["narrow"]["quality"]["mean"] == pytest.approx(0.1)
    assert comparison["front"] == ["narrow"]
    assert comparison["runs"]["wide"]["metrics"]["quality"]["mean"] == pytest.approx(0.7)
    assert comparison["shared"]["wide"]["quality"] == pytest.approx(
        {"mean": 0.4, "low": 0.4, "high": 0.4, "prompts": 20}
    )
    assert comparison["shared"]["narrow"]["quality"]["mean"] == pytest.approx(0.5)
    assert "0.400 [0.400, 0.400]" in printed(comparison_table(comparison))
    assert of_all(comparison) == [
        "The runs did not answer the same prompts (wide: 40, narrow: 20): all that is compared is over the 20 that all "
        "of them answered."
    ]


def test_means_are_over_the_prompts_that_have_a_value_in_all_runs():
    runs = [
        {"a": {"q": 1.0, "v": 1.0}, "b": {"q": 3.0, "v": 3.0}, "c": {"q": None, "v": 5.0}},
        {"b": {"q": 7.0, "v": 7.0}, "a": {"q": None, "v": 9.0}, "d": {"q": 9.0, "v": 9.0}},
        {"b": {"v": 2.0}, "a": {"v": 4.0}, "c": {"v": 4.0}},
    ]
    runs = [[run] for run in runs]
    whole = {"mean": 0.0, "low": 0.0, "high": 0.0}  # stands where no prompt is left out
    found = on_common_prompts(runs, [{"q": whole, "v": whole, "none": None}, {"q": whole, "v": whole}, {"v": whole}])
    assert [point and (point["mean"], point["prompts"]) for point in found["q"]] == [(3.0, 1), (7.0, 1), None]
    assert [(point["mean"], point["prompts"]) for point in found["v"]] == [(2.0, 2), (8.0, 2), (3.0, 2)]
    assert (found["v"][1]["low"], found["v"][1]["high"]) == (7.0, 9.0)
    assert found.keys() == {"q", "v"}
    assert on_common_prompts(runs[:1], [{"q": whole}])["q"] == [whole | {"prompts": 2}]
    assert on_common_prompts([[{"a": {"q": 1.0}}], [{"b": {"q": 1.0}}]], [{"q": whole}] * 2) == {}


def test_few_prompts_and_unscored_ones_are_cautioned(words, tmp_path):
    picky = lambda completions, prompts, **_: [None if p == "prompt 3" else 1.0 for p in prompts]  # noqa: E731
    runs = [answer(tmp_path / name, words, lambda i, j: COLOURS[j], ids=range(4), reward=picky) for name in "ab"]
    assert of_all(compare(runs, tmp_path / "out")) == [
        "Quality is over the 3 of 4 shared prompts that are scored in all runs.",
        "4 shared prompts; below 20 the intervals are too narrow, and no p-value can reach 0.05 below 6, nor below 8 "
        "once it is corrected for 6 metrics.",
    ]


@pytest.mark.parametrize(("metrics", "prompts", "shown"), [(1, 5, False), (1, 6, True), (6, 7, False), (6, 8, True)])
def test_how_few_prompts_can_show_nothing_is_as_the_caution_says(metrics, prompts, shown):
    """The clearest difference there is: one run is better on every prompt, in one of the metrics."""
    names = [f"m{i}" for i in range(metrics)]
    base = {str(p): {name: float(p % 2) for name in names} for p in range(prompts)}
    noise = {key: {name: (-1.0) ** int(key) for name in names} for key in base}
    better = {
        key: {name: base[key][name] + (1.0 if name == "m0" else noise[key][name]) for name in names} for key in base
    }
    found = paired_differences([[base], [better]], names, names)[0, 1]
    assert (found["m0"].verdict == "up") is shown


def test_rewards_of_unknown_origin_are_compared_with_their_like_only_and_not_in_silence(words, varied, tmp_path):
    scored = read_groups(varied / "groups.jsonl")
    carried = [tmp_path / name for name in ("first", "second")]
    for folder in carried:
        assert evaluate(scored, encoder=words, equivalence=SameText(), out=folder)["scoring"] == {
            "rewards": "carried, origin unknown"
        }
    (caution,) = of_all(compare(carried, tmp_path / "out"))
    assert caution.startswith("The rewards of first, second came with the responses, and nothing says what gave them")
    with pytest.raises(DataError, match=r"agree on scoring to be compared, got \{'reward': 'lengthy'\} in varied and"):
        compare([varied, carried[0]], tmp_path / "out")


def test_runs_of_one_name_are_told_apart_by_their_folders(words, tmp_path):
    runs = [answer(tmp_path / seed / "final" / "eval", words, lambda i, j: COLOURS[j]) for seed in ("s0", "s1")]
    assert list(compare(runs, tmp_path / "out")["runs"]) == ["s0/final", "s1/final"]


def test_any_two_runs_are_compared_and_many_metrics_make_each_less_sure(words, varied, collapsed, tmp_path):
    third = answer(tmp_path / "third", words, lambda i, j: COLOURS[j] if i % 2 else COLOURS[j % 3])
    comparison = compare([varied, collapsed, third], tmp_path / "out")
    pairs = {(pair["a"], pair["b"]): pair["metrics"] for pair in comparison["pairs"]}
    assert list(pairs) == [("varied", "collapsed"), ("varied", "third"), ("collapsed", "third")]
    assert pairs["collapsed", "third"]["classes"]["mean"] == pytest.approx(3.5 - 1.75)
    known = {(pair, m): d for pair, metrics in pairs.items() for m, d in metrics.items() if d}
    primary = {test: d for test, d in known.items() if test[1] in comparison["primary"]}
    assert {metric for _, metric in primary} == {"quality", "max@k", "pass@k", "vendi_1", "attractors"}
    for family, among in ((primary, primary), (known, {t: d for t, d in known.items() if t not in primary})):
        least = min(among.values(), key=lambda difference: difference["p"])
        assert least["p_holm"] == pytest.approx(len(family) * least["p"]), "over its family, in all pairs"
        assert least["p_holm"] < 0.05
    assert comparison["differences"] == {"collapsed": pairs["varied", "collapsed"], "third": pairs["varied", "third"]}
    table = printed(difference_table(comparison))
    assert "third − collapsed" in table
    assert "+0.000 [+0.000, +0.000] p 1.0000 " in table
    assert "of a primary metric over the primary ones of all pairs" in " ".join(table.split())


SAMPLING = {
    "temperature": 1.0, "max_new_tokens": 64, "system_prompt": None, "chat_template": "3f", "form": "plain", "seed": 0,
    "model": "one",
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.7},
        {"max_new_tokens": 32},
        {"system_prompt": "Be brief."},
        {"chat_template": None},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"form": "verbalized:5"},
        {"parameters": {"top_p": 0.9}},
        {"adapted": {"temperature": "endpoint http://a refused temperature: it was left out"}},
    ],
)
def test_responses_drawn_in_another_way_are_compared_with_a_caution(words, varied, collapsed, tmp_path, change):
    from dqo.report.overview import cautions
    from dqo.report.sources import read_runs

    def sampled(folder, settings):
        document = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps(document | {"sampling": settings}))

    sampled(varied, SAMPLING)
    (caution,) = of_all(compare([varied, collapsed], tmp_path / "out"))
    assert caution.startswith("Nothing says how the responses of collapsed were drawn")
    sampled(collapsed, SAMPLING | {"seed": 1, "model": "another"})
    assert of_all(compare([varied, collapsed], tmp_path / "out")) == []
    sampled(collapsed, SAMPLING | change)
    ((fact, value),) = change.items()
    value = list(value) if fact == "adapted" else value  # the parameters alone
    (caution,) = of_all(compare([varied, collapsed], tmp_path / "out"))
    assert caution.startswith(f"The evaluations differ in {fact} (varied: {SAMPLING.get(fact)}, collapsed: {value})")
    assert caution in cautions(read_runs([varied, collapsed])), "the report says the same"


def test_servers_that_refuse_the_same_parameters_are_alike():
    """Two models are usually served at two addresses, and each refusal names its own."""
    documents = {
        name: {"metrics": {}, "sampling": SAMPLING | {"adapted": {"seed": f"endpoint http://{name}/v1 refused seed."}}}
        for name in ("one", "two")
    }
    assert likeness_cautions(documents) == []
    documents["two"]["sampling"] = SAMPLING
    assert "differ in adapted (one: ['seed'], two: None)" in likeness_cautions(documents)[0]


def test_of_many_runs_only_those_with_the_first_are_compared(words, varied, tmp_path):
    others = [answer(tmp_path / name, words, lambda i, j: COLOURS[j % 2]) for name in "bcdefghi"]
    pairs = compare([varied, *others], tmp_path / "out")["pairs"]
    assert [(pair["a"], pair["b"]) for pair in pairs] == [("varied", name) for name in "bcdefghi"]
    assert pairs[0]["metrics"]["vendi_1"]["p_holm"] < 0.05, "as many flips as the correction needs"


def test_of_many_runs_the_table_shows_those_against_the_first(words, varied, tmp_path):
    others = [answer(tmp_path / name, words, lambda i, j: COLOURS[j % 2]) for name in ("b", "c", "d")]
    comparison = compare([varied, *others], tmp_path / "out")
    assert len(comparison["pairs"]) == 6
    table = printed(difference_table(comparison))
    assert [f"{name} − varied" in table for name in "bcd"] == [True] * 3
    assert "c − b" not in table


def test_the_report_has_the_same_p_values(words, varied, collapsed, tmp_path):
    from dqo.report.overview import all_differences
    from dqo.report.sources import read_runs

    found = compare([varied, collapsed], tmp_path / "out")["differences"]["collapsed"]
    runs = read_runs([varied, collapsed])
    metrics = list(runs[0].document["metrics"])
    arms = [[run.values] for run in runs]
    shown = all_differences(arms, tabled(metrics, 4), headline(metrics, primary=True))[0][1]
    assert {name: difference._asdict() for name, difference in shown.items()} == {
        name: difference for name, difference in found.items() if difference
    }


def test_without_quality_there_is_no_front(words, varied, tmp_path):
    other = answer(tmp_path / "other", words, lambda i, j: COLOURS[j], reward=None)
    comparison = compare([varied, other], tmp_path / "out")
    assert comparison["front"] is None
    assert comparison["differences"]["other"]["quality"] is None
    assert "–" in printed(comparison_table(comparison))


def test_markup_in_a_run_name_is_shown_as_it_is(words, varied, tmp_path):
    odd = answer(tmp_path / "[bold]run[" / "x", words, lambda i, j: COLOURS[j])
    odd = odd.rename(tmp_path / "[red]odd")
    assert "[red]odd" in printed(comparison_table(compare([varied, odd], tmp_path / "out")))


def test_runs_that_cannot_be_compared_are_refused(words, first_letters, varied, collapsed, tmp_path):
    out = tmp_path / "out"
    fewer = answer(tmp_path / "fewer", words, lambda i, j: COLOURS[j], n=3)
    with pytest.raises(DataError, match=r"agree on n_samples to be compared, got 4 in varied and 3 in fewer"):
        compare([varied, fewer], out)
    coarse = answer(tmp_path / "coarse", first_letters, lambda i, j: COLOURS[j])
    with pytest.raises(DataError, match=r"agree on encoder to be compared, got 'words' in varied and 'coarse' in"):
        compare([varied, coarse], out)
    strangers = answer(tmp_path / "strangers", words, lambda i, j: COLOURS[j], ids=range(50, 60))
    with pytest.raises(DataError, match=r"prompts that all runs answered, got none with the same id"):
        compare([varied, strangers], out)
    renamed = answer(tmp_path / "renamed", words, lambda i, j: COLOURS[j], prompt="another {}")
    with pytest.raises(DataError, match=r"got two different ones with id 'q0' in varied and renamed"):
        compare([varied, renamed], out)
    with pytest.raises(DataError, match=r"two or more different folders, got .*varied"):
        compare([varied, varied], out)
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(
        DataError,
        match=r"unfinished/metrics\.json: expected a readable metrics\.json of a finished evaluation, got No such",
    ):
        compare([varied, tmp_path / "unfinished"], out)
    assert not out.exists()


@pytest.mark.parametrize("name", ["scoring", "sampling"])
def test_a_record_that_is_no_object_is_told(words, varied, collapsed, tmp_path, name):
    path = collapsed / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: "hot"}))
    with pytest.raises(DataError, match=f"`{name}` must be a mapping, got 'hot'"):
        compare([varied, collapsed], tmp_path / "out")
