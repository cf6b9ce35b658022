"""Sampling: the same responses whatever the batch or a restart, and draws from the model's own distribution."""

import json
from dataclasses import replace

import pytest
import torch

from dqo.errors import DataError, ModelError, RecipeError
from dqo.evaluation.engines import Asked, LocalModel, SeededChoice
from dqo.evaluation.sampling import sample_from
from dqo.files.records import Prompt, read_groups

PROMPTS = [
    Prompt("one", "the cat runs", [], {}),
    Prompt("two", "a big dog and a small bird near the river", "ref", {"x": 1}),
    Prompt("three", "sings", ["r"], {}),
]
ASKED = Asked(seed=5, max_new_tokens=8, temperature=1.0)


def draw(model, tokenizer, prompts=PROMPTS, n=3, *, batch_size=4, out=None, **changes):
    return sample_from(LocalModel(model, tokenizer, replace(ASKED, **changes), batch_size), prompts, n, out=out)


def test_groups_carry_the_prompt_and_one_finish_a_response(tiny_policy, tiny_tokenizer):
    groups = draw(tiny_policy, tiny_tokenizer)
    assert [(group.id, group.prompt, group.reference, group.meta) for group in groups] == [
        (prompt.id, prompt.prompt, prompt.reference, prompt.meta) for prompt in PROMPTS
    ]
    assert all(len(group.responses) == len(group.finish) == 3 and group.rewards is None for group in groups)
    assert len({text for group in groups for text in group.responses}) > 5, "a random model does not repeat itself"


@pytest.mark.parametrize("batch_size", [1, 2, 9, 50])
def test_batch_size_and_company_do_not_change_a_sample(tiny_policy, tiny_tokenizer, batch_size):
    expected = draw(tiny_policy, tiny_tokenizer)
    assert draw(tiny_policy, tiny_tokenizer, batch_size=batch_size) == expected
    assert draw(tiny_policy, tiny_tokenizer, PROMPTS[::-1], batch_size=batch_size) == expected[::-1]
    assert draw(tiny_policy, tiny_tokenizer, PROMPTS[1:2], batch_size=batch_size) == expected[1:2]


def test_more_samples_begin_with_the_fewer(tiny_policy, tiny_tokenizer):
    few, many = draw(tiny_policy, tiny_tokenizer, n=2), draw(tiny_policy, tiny_tokenizer, n=5)
    assert [group.responses[:2] for group in many] == [group.responses for group in few]


def test_the_seed_matters_and_the_global_generator_does_not(tiny_policy, tiny_tokenizer):
    expected = draw(tiny_policy, tiny_tokenizer)
    torch.manual_seed(1234)
    assert draw(tiny_policy, tiny_tokenizer) == expected
    assert draw(tiny_policy, tiny_tokenizer, seed=6) != expected


def test_the_models_generation_defaults_are_set_aside_and_put_back(tiny_policy, tiny_tokenizer):
    expected = draw(tiny_policy, tiny_tokenizer)
    own = tiny_policy.generation_config
    own.update(top_k=1, repetition_penalty=5.0, do_sample=True, min_new_tokens=8, no_repeat_ngram_size=1)
    tiny_policy.train()
    assert draw(tiny_policy, tiny_tokenizer) == expected
    assert tiny_policy.generation_config is own
    assert tiny_policy.training


def test_finish_tells_eos_from_length(tiny_policy, tiny_tokenizer):
    with torch.no_grad():  # the next token depends on the last one only through noise: all logits small, eos at ~30 %
        tiny_policy.lm_head = torch.nn.Linear(32, len(tiny_tokenizer), bias=True)
        tiny_policy.lm_head.weight.mul_(0.01)
        tiny_policy.lm_head.bias.zero_()[tiny_tokenizer.eos_token_id] = 2.5
    groups = draw(tiny_policy, tiny_tokenizer, n=20)
    lengths = {"eos": set(), "length": set()}
    for group in groups:
        for text, finish in zip(group.responses, group.finish, strict=True):
            lengths[finish].add(len(text.split()))
    assert lengths["length"]
    assert max(lengths["length"]) == 8
    assert min(lengths["eos"]) == 0, "an answer of nothing but the end of sequence is empty"
    assert max(lengths["eos"]) < 8


def test_eos_ids_of_the_generation_config_count_too(tiny_policy, tiny_tokenizer):
    stop = tiny_tokenizer.convert_tokens_to_ids("cat")
    free = draw(tiny_policy, tiny_tokenizer, n=30)
    assert any("cat" in text.split() for group in free for text in group.responses)
    tiny_policy.generation_config.eos_token_id = [tiny_tokenizer.eos_token_id, stop]
    for before, after in zip(free, draw(tiny_policy, tiny_tokenizer, n=30), strict=True):
        for was, now, finish in zip(before.responses, after.responses, after.finish, strict=True):
            words = was.split()
            assert now.split() == words[: words.index("cat") if "cat" in words else None]
            assert finish == "eos" if "cat" in words else True


def test_without_chat_template_the_prompt_is_plain(tiny_policy, tiny_tokenizer, monkeypatch):
    with_template = draw(tiny_policy, tiny_tokenizer)
    as_text = [Prompt(p.id, f"user {p.prompt} assistant", p.reference, p.meta) for p in PROMPTS]
    monkeypatch.setattr(tiny_tokenizer, "chat_template", None)
    assert [g.responses for g in draw(tiny_policy, tiny_tokenizer, as_text)] == [g.responses for g in with_template]
    assert [g.responses for g in draw(tiny_policy, tiny_tokenizer)] != [g.responses for g in with_template]


def test_a_system_prompt_stands_before_the_prompt_and_is_recorded(tiny_policy, tiny_tokenizer, monkeypatch):
    source = LocalModel(tiny_policy, tiny_tokenizer, replace(ASKED, system_prompt="a sad cat"))
    asked = sample_from(source, PROMPTS, 3)
    assert source.settings()["system_prompt"] == "a sad cat"
    as_text = [Prompt(p.id, f"system a sad cat user {p.prompt} assistant", p.reference, p.meta) for p in PROMPTS]
    monkeypatch.setattr(tiny_tokenizer, "chat_template", None)
    assert [g.responses for g in draw(tiny_policy, tiny_tokenizer, as_text)] == [g.responses for g in asked]
    with pytest.raises(ModelError, match="system_prompt: expected a model with a chat template, got"):
        LocalModel(tiny_policy, tiny_tokenizer, replace(ASKED, system_prompt="a sad cat"))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_tempered_distribution(temperature):
    logits = torch.tensor([2.0, 0.0, float("-inf"), 1.0])
    rows = 20_000
    uniforms = torch.rand(rows, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    choice = SeededChoice(uniforms, temperature, start=7)
    taken = choice(torch.zeros(rows, 7, dtype=torch.long), logits.expand(rows, 4).clone()).argmax(-1)
    weights = [2.718281828 ** (x / temperature) for x in (2.0, 0.0)] + [0.0, 2.718281828 ** (1.0 / temperature)]
    for token, weight in enumerate(weights):
        share = float((taken == token).float().mean())
        assert share == pytest.approx(weight / sum(weights), abs=4 * (0.25 / rows) ** 0.5)
    assert not (taken == 2).any(), "a token of probability 0 is never drawn"


def test_the_ends_of_the_unit_interval_choose_possible_tokens():
    scores = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]]).repeat(2, 1)
    choice = SeededChoice(torch.tensor([[0.0], [1.0 - 2.0**-53]], dtype=torch.float64), 1.0, start=1)
    assert choice(torch.zeros(2, 1, dtype=torch.long), scores).argmax(-1).tolist() == [1, 2]


@pytest.mark.parametrize("cut", [0, 30, -1])
def test_a_killed_run_is_resumed_from_its_whole_lines(tiny_policy, tiny_tokenizer, tmp_path, cut):
    expected = draw(tiny_policy, tiny_tokenizer, out=tmp_path / "whole")
    content = (tmp_path / "whole" / "groups.jsonl").read_bytes()
    assert read_groups(tmp_path / "whole" / "groups.jsonl") == expected
    first, rest = content.split(b"\n", 1)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "sampling.json").write_bytes((tmp_path / "whole" / "sampling.json").read_bytes())
    (tmp_path / "cut" / "groups.jsonl").write_bytes(first + b"\n" + rest[:cut])
    assert draw(tiny_policy, tiny_tokenizer, out=tmp_path / "cut") == expected
    assert (tmp_path / "cut" / "groups.jsonl").read_bytes() == content


def test_finished_groups_are_not_sampled_again(tiny_policy, tiny_tokenizer, tmp_path):
    draw(tiny_policy, tiny_tokenizer, out=tmp_path)
    path = tmp_path / "groups.jsonl"
    marked = [json.loads(line) for line in path.read_text().splitlines()]
    marked[0] |= {"responses": ["kept by hand", "b", "c"], "rewards": [1.0, 0.0, 0.0]}
    path.write_text("".join(json.dumps(group) + "\n" for group in marked))
    first = draw(tiny_policy, tiny_tokenizer, out=tmp_path)[0]
    assert first.responses == ["kept by hand", "b", "c"]
    assert first.rewards is None, "scores of an earlier evaluation are not carried over"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"seed": 6},
            r"sampling\.json: expected the settings of the run .* 'seed' was 5 and is now 6; choose",
        ),
        ({"n": 4}, r"'n' was 3 and is now 4"),
        ({"temperature": 0.7}, r"'temperature' was 1\.0 and is now 0\.7"),
        (
            {"prompts": PROMPTS[:2]},
            r"groups\.jsonl: expected groups of the prompts asked for, but 'three' is none",
        ),
        (
            {"prompts": [Prompt("one", "cat", [], {}), *PROMPTS[1:]]},
            r"but 'one' is none of them or has another text; ask for the same",
        ),
    ],
)
def test_a_folder_of_another_run_is_refused(tiny_policy, tiny_tokenizer, tmp_path, changes, message):
    draw(tiny_policy, tiny_tokenizer, out=tmp_path)
    with pytest.raises((DataError, RecipeError), match=message):
        draw(tiny_policy, tiny_tokenizer, out=tmp_path, **changes)


def test_a_model_trained_further_under_the_same_name_is_refused(tiny_policy, tiny_tokenizer, tmp_path):
    draw(tiny_policy, tiny_tokenizer, out=tmp_path)
    with torch.no_grad():
        tiny_policy.model.norm.weight.add_(1e-3)
    with pytest.raises(RecipeError, match=r"'weights' was '\w{16}' and is now '\w{16}'"):
        draw(tiny_policy, tiny_tokenizer, out=tmp_path)


def test_groups_without_settings_are_refused(tiny_policy, tiny_tokenizer, tmp_path):
    (tmp_path / "groups.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"groups\.jsonl: expected sampling\.json beside it"):
        draw(tiny_policy, tiny_tokenizer, out=tmp_path)


def test_a_prompt_that_leaves_no_room_is_refused(tiny_policy, tiny_tokenizer):
    with pytest.raises(
        DataError, match=r"Prompt 'two' must .* leave 250 of the model's 256 .*, got 12 tokens; shorten"
    ):
        draw(tiny_policy, tiny_tokenizer, max_new_tokens=250)
