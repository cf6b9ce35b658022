"""The page as a file: whole, self-contained, bounded, and with nothing of a model's in its markup."""

import base64
import gzip
import hashlib
import json
import random
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

import dqo.report
import dqo.report.charts
from dqo.embedders import HashedEmbedder
from dqo.errors import DataError, DQOError, EncoderError, ModelError
from dqo.evaluation.definitions import definition_of
from dqo.evaluation.run import evaluate
from dqo.files.records import Group, write_groups
from dqo.report import write_report

ASSETS = Path(dqo.report.__file__).parent / "assets"


class Markup(HTMLParser):
    """Every tag with its attributes, and the text of every script."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, text):
        if self.cdata_elem == "script":
            self.scripts[-1] += text


def data_of(page):
    (packed,) = re.findall(r'<script type="application/octet-stream" id="data">([^<]*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


@pytest.fixture(scope="module")
def page(run_folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    write_report(run_folders, out)
    return out.read_text(encoding="utf-8")


def test_nothing_on_the_page_points_outside_it(page):
    markup = Markup(page)
    links = [value for _, attributes in markup.tags for name, value in attributes.items() if name in ("href", "src")]
    assert links
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert "@import" not in page.split("</style>")[0]
    assert "url(" not in page.split("</style>")[0]


def test_the_policy_names_the_scripts_that_are_there_and_allows_nothing_else(page):
    markup = Markup(page)
    (policy,) = [a["content"] for tag, a in markup.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    digests = {"sha256-" + base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in markup.scripts[1:]}
    assert set(re.findall(r"'(sha256-[^']+)'", policy)) == digests
    assert len(digests) == 3


def test_no_response_is_part_of_the_markup_and_all_are_in_the_data(page, samples):
    assert "window.ran" not in page
    assert "\u202e" not in page
    first = data_of(page)["samples"]["runs"][0][0]
    assert first["r"][: len(samples.nasty)] == samples.nasty


def test_a_megabyte_is_cut_and_the_cut_is_told(page):
    first = data_of(page)["samples"]["runs"][0][0]
    assert first["n"] == {"5": 1_000_000}
    assert len(first["r"][5]) == 20_000
    assert "Texts longer than 20,000 characters are cut (1 here)" in page


def test_a_prompt_and_a_reference_that_are_cut_are_told_too(tmp_path):
    groups = [
        Group("a", "A" * 30_000, "R" * 25_000, ["x"], ["eos"], None, {}),
        Group("b", "B" * 30_000, ["r"], ["y" * 20_001, "z"], ["eos"] * 2, None, {}),
        Group("c", "C" * 20_000, "r", ["x"], ["eos"], None, {}),
    ]
    write_groups(tmp_path / "long" / "groups.jsonl", groups)
    (note,) = write_report([tmp_path / "long"], tmp_path / "r.html", maps=0)["notes"]
    assert note.startswith("Texts longer than 20,000 characters are cut (4 here); the reader names")
    prompts = data_of((tmp_path / "r.html").read_text())["samples"]["prompts"]
    assert [whole for *_, whole in prompts] == [{"1": 30_000, "2": 25_000}, {"1": 30_000}, {}]
    assert [len(prompt) for _, prompt, *_ in prompts] == [20_000] * 3


def test_names_and_settings_are_escaped(tmp_path):
    folder = tmp_path / "<b>run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 1, "quality": 0.5, "</script><i>x": 1}\n')
    (folder / "config.yaml").write_text("model: </td><script>x()</script>\nalpha: 1\n")
    write_report([folder], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<b>run" not in page
    assert "&lt;b&gt;run" in page
    assert "<script>x()" not in page
    assert data_of(page)["runs"][0]["name"] == "<b>run"


@pytest.mark.parametrize("missing", ["log", "evaluation", "groups", "everything but groups"])
def test_a_page_of_what_there_is(missing, tmp_path, samples):
    folder = samples.trained(tmp_path / "run", 1.0, 0.9, 5.0, steps=5, diversity=0.5, skill=0.7, prompts=6)
    gone = {
        "log": ["metrics.jsonl"],
        "evaluation": ["eval/metrics.json", "eval/prompt_metrics.jsonl", "eval/groups.jsonl"],
        "groups": ["eval/groups.jsonl"],
        "everything but groups": ["metrics.jsonl", "config.yaml", "eval/metrics.json", "eval/prompt_metrics.jsonl"],
    }[missing]
    for name in gone:
        (folder / name).unlink()
    write_report([folder], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert ('id="training"' in page) == (missing not in ("log", "everything but groups"))
    assert ('id="draws"' in page) == (missing not in ("evaluation", "everything but groups"))
    assert ('id="responses"' in page) == (missing not in ("groups", "evaluation"))


def test_a_run_that_is_not_evaluated_stands_beside_one_that_is(tmp_path, samples):
    shape = {"diversity": 0.5, "skill": 0.7, "prompts": 6}
    folder = samples.trained(tmp_path / "run", 1.0, 0.9, 5.0, steps=5, **shape)
    for name in ("metrics.json", "prompt_metrics.jsonl", "groups.jsonl"):
        (folder / "eval" / name).unlink()
    page, data, _ = written([folder, samples.evaluated(tmp_path / "base", **shape)], tmp_path)
    assert [run["name"] for run in data["runs"]] == ["run", "base"]
    assert 'id="training"' in page
    assert 'id="evaluation"' in page or 'id="draws"' in page


def test_evaluations_that_differ_are_shown_with_a_caution(tmp_path, samples):
    a = samples.evaluated(tmp_path / "a", diversity=1, skill=0.5, n=10, prompts=6)
    b = samples.evaluated(tmp_path / "b", diversity=1, skill=0.5, n=5, prompts=6)
    write_report([a, b], tmp_path / "r.html")
    assert "differ in n_samples (a: 10, b: 5)" in (tmp_path / "r.html").read_text()


def colours(folder, good, ids, prompt="Name colour {}"):
    """An evaluation in which every response to prompt i has reward good(i)."""
    texts = ["red", "green", "blue", "pink"]
    groups = [Group(f"p{i}", prompt.format(i), [], texts, ["eos"] * 4, [good(i)] * 4, {}) for i in ids]
    evaluate(groups, encoder=HashedEmbedder(64), out=folder, scoring={"reward": "good"})
    return folder


def written(folders, tmp_path):
    """The page, its data, its text by the labels of its parts, and its cautions."""
    write_report(folders, tmp_path / "r.html", maps=0)
    page = (tmp_path / "r.html").read_text()
    parts = re.findall(r'<(ul)[^>]* aria-label="([^"]+)">(.*?)</\1>', page, flags=re.S)
    parts += re.findall(r'<(table) class="grid (headline|attractors) stack">(.*?)</\1>', page, flags=re.S)
    text = {label: " ".join(re.sub(r"<[^>]+>", " ", part).split()) for _, label, part in parts}
    return page, data_of(page), {"Cautions": ""} | text


def test_runs_are_ordered_on_the_prompts_that_all_answered(tmp_path):
    """The first is worse on each of 20 shared prompts and better on 20 that only it was asked."""
    wide = colours(tmp_path / "wide", lambda i: 0.4 if i < 20 else 1.0, range(40))
    narrow = colours(tmp_path / "narrow", lambda i: 0.5 + i % 2 / 100, range(20))
    page, data, text = written([wide, narrow], tmp_path)
    assert [point[0] for point in data["evaluation"]["quality"]] == [0.4, 0.505]
    assert data["axes"]["fronts"]["vendi_1|quality"] == [1]
    assert "Quality ↑ 0.400 0.400 to 0.400 0.505 better +0.105," in text["headline"]
    assert "The runs did not answer the same prompts (wide: 40, narrow: 20): the table" in text["Cautions"]
    assert 'data-x="over 20 shared prompts"' in page
    whole = colours(tmp_path / "whole", lambda i: 0.5, range(40))
    _, data, text = written([wide, whole], tmp_path)
    assert data["evaluation"]["quality"][0][0] == 0.7
    assert "did not answer the same prompts" not in text["Cautions"]


def test_before_and_after_are_of_the_prompts_that_both_answered(tmp_path):
    """Good answers: some to each of the 30 prompts of both and none to the other 30, which only the first was asked."""
    first = colours(tmp_path / "first", lambda i: float(i < 30), range(60))
    second = colours(tmp_path / "second", lambda i: float(i % 2), range(30))
    row = r"Vendi score of good answers ↑ (\S+) \S+ to \S+ (\S+) (worse|better)"
    _, _, text = written([first, second], tmp_path)
    before, after, word = re.search(row, text["headline"]).groups()
    assert (float(after) / float(before), word) == (pytest.approx(0.5, rel=1e-3), "worse")
    _, _, text = written([second, first], tmp_path)
    assert re.search(row, text["headline"]).groups() == (after, before, "better")


def test_the_baseline_is_shown_as_it_was_evaluated_not_as_it_trained(tmp_path, samples):
    first, second = (
        samples.trained(tmp_path / name, alpha, end_quality=0.9, end_vendi=3, diversity=0.5, skill=0.8)
        for name, alpha in (("first", 0.0), ("second", 1.0))
    )
    _, data, text = written([first, second], tmp_path)
    quality = f"Quality ↑ {data['evaluation']['quality'][0][0]:.3f} "
    assert quality in text["headline"]
    _, _, alone = written([first], tmp_path)
    assert quality in alone["headline"]


def test_without_common_prompts_no_run_is_ahead(tmp_path):
    first = colours(tmp_path / "first", lambda i: 0.2, range(20))
    other = colours(tmp_path / "other", lambda i: 0.9, range(20, 40))
    page, data, text = written([first, other], tmp_path)
    assert [point[0] for point in data["evaluation"]["quality"]] == [0.2, 0.9]
    assert data["axes"]["fronts"]["vendi_1|quality"] == []
    assert ">better<" not in page
    assert "No prompt was answered by all runs (first: 20, other: 20)" in text["Cautions"]
    (other / "prompt_metrics.jsonl").unlink()
    _, _, text = written([first, other], tmp_path)
    assert "other: no prompt_metrics.jsonl, so that no run is said to be ahead" in text["Cautions"]


def test_of_nine_runs_the_best_is_compared_with_the_first_and_not_with_a_rival_chosen_after_looking(tmp_path):
    folders = [colours(tmp_path / f"run{k}", lambda i, k=k: k / 10, range(20)) for k in range(9)]
    page, _, text = written(folders, tmp_path)
    assert "0.800 better +0.800, +0.800 to +0.800" in text["headline"]
    assert 'id="against"' not in page, "no other is a baseline"


def test_of_three_runs_the_best_is_ahead_of_those_it_is_shown_to_be_ahead_of(tmp_path):
    far = colours(tmp_path / "far", lambda i: 0.2, range(20))
    near = colours(tmp_path / "near", lambda i: 0.5 + (0.3 if i % 2 else -0.3), range(20))
    best = colours(tmp_path / "best", lambda i: 0.5 + (0.31 if i % 3 else -0.31), range(20))
    page, _, text = written([far, near, best], tmp_path)
    assert re.search(r"0\.593 better \+0\.393", text["headline"])
    (against_near,) = re.findall(r'data-base="1".*?<tbody>(.*?)</tbody>', page, flags=re.S)
    quality = next(row for row in against_near.split("</tr>") if 'data-d="e:quality"' in row)
    assert quality.count(">worse<") == 1, "far is behind, and best is not shown to be ahead"
    assert ">better<" not in quality


def test_what_is_called_above_is_so_by_the_corrected_p(tmp_path):
    """p by itself is 2/2^7 = 0.016 and the interval excludes 0; over all metrics of the pair nothing is shown."""
    base = colours(tmp_path / "base", lambda i: 0.5, range(7))
    other = colours(tmp_path / "other", lambda i: 0.6, range(7))
    page, _, text = written([base, other], tmp_path)
    assert "0.600 no difference shown +0.100, +0.100 to +0.100" in text["headline"]
    assert ">better<" not in page


def test_seeds_of_an_arm_are_one_column_and_what_they_repeat_is_listed(tmp_path):
    """Four colours to every prompt: each opens a quarter of the responses to all of them."""
    seeds = [colours(tmp_path / f"{arm}-seed{seed}", lambda i, q=q, seed=seed: q + seed / 10, range(20))
             for arm, q in (("low", 0.1), ("high", 0.6)) for seed in range(3)]  # fmt: skip
    _, data, text = written(seeds, tmp_path)
    assert [arm["name"] for arm in data["arms"]] == ["low", "high"]
    assert [run["arm"] for run in data["runs"]] == [0, 0, 0, 1, 1, 1]
    assert data["evaluation"]["quality"][1][0] == pytest.approx(0.7)
    assert "low 3 seeds baseline 20 prompts × 4 responses, sampling unknown high 3 seeds" in text["headline"]
    assert re.search(r"Quality ↑ 0\.200 \S+ to \S+ 0\.700 better \+0\.500", text["headline"])
    assert text["attractors"].endswith("blue opening 25 % 25 % green opening 25 % 25 % pink opening 25 % 25 % "
                                       "red opening 25 % 25 %")  # fmt: skip


def test_what_is_null_is_a_dash_with_its_reason(tmp_path):
    page, _, _ = written([colours(tmp_path / "one", lambda i: 0.5, range(3))], tmp_path)
    assert 'data-x="null: no response has n words, or white space does not' in page
    assert 'data-x="null: nothing decides which responses mean the same"' in page


def test_only_diversity_is_offered_across(tmp_path, samples):
    folders = [samples.evaluated(tmp_path / name, diversity=1, skill=0.5) for name in "ab"]
    axes = written(folders, tmp_path)[1]["axes"]
    assert {"vendi_1", "heldout/vendi_1", "distinct_2", "self_bleu", "good/vendi_1"} <= set(axes["x"])
    assert all(definition_of(name).kind.startswith("diversity") for name in axes["x"])
    assert all(definition_of(name).kind == "quality" for name in axes["y"])
    assert "encoder_disagreement" not in axes["x"] + axes["y"]


def test_quality_of_unknown_origin_is_cautioned_where_it_is_compared(tmp_path, samples):
    runs = [samples.evaluated(tmp_path / name, diversity=1, skill=0.5) for name in "ab"]
    assert "The rewards of a, b came with the responses" in written(runs, tmp_path)[2]["Cautions"]
    assert "came with the responses" not in written(runs[:1], tmp_path)[2]["Cautions"]


def test_what_one_folder_does_not_say_is_no_difference(tmp_path, samples):
    base = samples.evaluated(tmp_path / "base", diversity=1, skill=0.5, prompts=3)
    shape = {"steps": 3, "diversity": 0.5, "skill": 0.7, "prompts": 3}
    runs = [samples.trained(tmp_path / f"alpha-{alpha}", alpha, 0.9, 5.0, **shape) for alpha in (0.5, 2.0)]
    write_report([base, *runs], tmp_path / "r.html", maps=0)
    differ, same = (tmp_path / "r.html").read_text().split("What differs")[1].split("The same in all")
    assert re.findall(r'<th scope="row"><code>([^<]+)', differ) == ["alpha"]
    assert "trainer.learning_rate" in same
    assert "corpus" not in differ + same.split("<h3>Files")[0]


def test_an_encoder_that_is_not_there_is_said_and_one_that_was_asked_for_is_an_error(tmp_path, samples):
    folder = samples.evaluated(tmp_path / "a", diversity=1, skill=0.5, prompts=3)
    document = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(document | {"encoder": "hashed:none"}))
    write_report([folder], tmp_path / "r.html")
    assert "hashed words, which know no meaning: hashed:none" in data_of((tmp_path / "r.html").read_text())["mapNote"]
    with pytest.raises(EncoderError, match="hashed:nothing"):
        write_report([folder], tmp_path / "r.html", encoder="hashed:nothing")
    for name, error in (("policy:nowhere/run", ModelError), ("endpoint:http://127.0.0.1:9/v1", DQOError)):
        (folder / "metrics.json").write_text(json.dumps(document | {"encoder": name}))
        write_report([folder], tmp_path / "r.html")
        assert f"know no meaning: {name} cannot" in data_of((tmp_path / "r.html").read_text())["mapNote"]
        with pytest.raises(error):
            write_report([folder], tmp_path / "r.html", encoder=name)


def test_the_old_page_stays_when_the_new_one_fails(tmp_path):
    (tmp_path / "r.html").write_text("old")
    with pytest.raises(DataError):
        write_report([tmp_path / "nothing"], tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == "old"


def test_the_size_is_bounded_by_cutting_and_then_by_leaving_out(tmp_path, monkeypatch):
    monkeypatch.setattr(dqo.report.charts, "PACKED_LIMIT", 60_000)
    rng = random.Random(0)
    noise = [[rng.randbytes(300).hex() for _ in range(2)] for _ in range(200)]  # 600 characters that do not pack
    groups = [Group(f"p{i}", f"Prompt {i}", [], texts, ["eos"] * 2, None, {}) for i, texts in enumerate(noise)]
    write_groups(tmp_path / "a" / "groups.jsonl", groups)
    notes = write_report([tmp_path / "a"], tmp_path / "r.html", maps=3, encoder="hashed")["notes"]
    data = data_of((tmp_path / "r.html").read_text())
    assert len(base64.b64encode(gzip.compress(json.dumps(data).encode()))) < 80_000
    assert 0 < len(data["samples"]["prompts"]) < 200
    cut, left_out = notes
    assert cut.startswith("Texts longer than 500 characters are cut (")
    held = [int(prompt[0][1:]) for prompt in data["samples"]["prompts"]]
    assert left_out == (
        f"The reader holds {len(held)} of 200 prompts, drawn at random with seed 0; every other section counts all of "
        "them."
    )
    assert held == sorted(held)
    assert {0, 100, 199} <= set(held), "a prompt with a map is there"
    assert 60 < sum(held) / len(held) < 140, "and the others are from all over the file"


def test_two_thousand_prompts_are_a_small_page_in_time(tmp_path, samples):
    """The promise is 15 MB and 60 s; text from few templates packs better than real text: a stricter bound."""
    for name, seed in (("a", 1), ("b", 2)):
        groups = samples.groups(1.0, 0.5, prompts=2000, seed=seed)
        write_groups(tmp_path / name / "groups.jsonl", groups)
        row = {"quality": 0.5, **{f"m{i}": float(i) for i in range(30)}}
        lines = [json.dumps({"id": g.id, **row, "quality": g.rewards[0]}) for g in groups]
        (tmp_path / name / "prompt_metrics.jsonl").write_text("\n".join(lines) + "\n")
        intervals = {metric: {"mean": 0.5, "low": 0.4, "high": 0.6} for metric in row}
        (tmp_path / name / "metrics.json").write_text(
            json.dumps({"n_prompts": 2000, "n_samples": 10, "metrics": intervals})
        )
    start = time.monotonic()
    written = write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "r.html")
    assert written["prompts"] == 2000
    assert written["bytes"] < 5_000_000
    assert time.monotonic() - start < 60


def test_the_libraries_are_the_published_files():
    listed = dict(re.findall(r"\| `(\S+)` \|.*\| ([0-9a-f]{64}) \|", (ASSETS / "vendor" / "README.md").read_text()))
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (ASSETS / "vendor").glob("*.js")}
    assert found == listed
    assert len(found) == 2


def test_the_scripts_never_parse_a_string_as_markup_or_code():
    own = "".join(path.read_text() for path in (ASSETS / "js").glob("*.js"))
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|fetch\(|https?:", own)
        == []
    )
