"""Mistakes in the section `dqo` are told in one sentence before anything starts; recipes compose as they are."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl is not installed: make test-oldest")

from dqo.diversity.credit import DiversitySpec
from dqo.errors import DQOError, RecipeError, RewardError
from dqo.integrations.verl.settings import base_mode, read_settings

RECIPES = sorted((Path(__file__).parents[3] / "recipes" / "verl").glob("*.sh"))
GRPO = ("algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.n=8", "trainer.v1.trainer_mode=dqo_sync")


def test_settings_make_a_diversity_spec_with_the_same_defaults(verl_config):
    settings = read_settings(verl_config(*GRPO, "+dqo.alpha=0.5", "+dqo.combine=gate", "+dqo.quality_threshold=1"))
    assert settings.diversity_spec() == DiversitySpec(alpha=0.5, combine="gate", quality_threshold=1.0)
    assert (settings.kernel, settings.ridge, settings.credit_scale) == ("cosine", 1.0, "nats")
    assert read_settings(verl_config(*GRPO)).alpha == DiversitySpec().alpha


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+dqo.alhpa=1", r"dqo: expected a known setting, got 'alhpa'; did you mean 'alpha'\?"),
        ("+dqo.alpha=much", "dqo: `alpha` must be a number or auto, got 'much'"),
        ("+dqo.alpha=-1", "`alpha` must be at least 0 or auto, got -1"),
        ("+dqo.kernel=rbf", r"kernel"),
        ("+dqo=1", r"dqo: expected settings such as \+dqo.alpha=0.5, got 1"),
        (
            "+dqo.encoder_actors=0 +dqo.encoder_cpus=4",
            r"dqo.encoder_actors: expected at least 1 where dqo.encoder_cpus=4 .* got 0; raise it",
        ),
        ("+dqo.encoder_actors=-1", "dqo: `encoder_actors` must be at least 0, got -1"),
        ("actor_rollout_ref.rollout.n=2", r"rollout.n: expected at least 3 responses .*=grpo, got 2"),
        (
            "+dqo.diversity=entropy +dqo.alpha=0.01",
            r"diversity: expected one of none, dqo, .*, got 'entropy'",
        ),
        ("+dqo.diversity=partition", r"diversity='partition' needs one of `same_threshold` and"),
        ("+dqo.diversity=unlikeliness +dqo.alpha=0.5", r"dqo.diversity: expected one of .* got 'unlikeliness', which"),
    ],
)
def test_a_mistake_is_one_sentence(verl_config, override, message):
    with pytest.raises(DQOError, match=message) as caught:
        read_settings(verl_config(*GRPO, *override.split()))
    assert "\n" not in str(caught.value)


def test_without_a_group_mean_two_responses_suffice(verl_config):
    two = ("actor_rollout_ref.rollout.n=2", "trainer.v1.trainer_mode=dqo_sync")
    assert read_settings(verl_config(*two, "algorithm.adv_estimator=reinforce_plus_plus")).alpha == 1.0


def test_any_mean_over_a_pair_cancels_equal_credits(verl_config):
    two = ("actor_rollout_ref.rollout.n=2", "trainer.v1.trainer_mode=dqo_sync", "algorithm.adv_estimator=opo")
    with pytest.raises(RecipeError, match=r"at least 3 responses .*=opo, got 2"):
        read_settings(verl_config(*two))


def test_a_critic_needs_two_responses_and_not_three(verl_config):
    gae = ("algorithm.adv_estimator=gae", "trainer.v1.trainer_mode=dqo_sync")
    read_settings(verl_config(*gae, "actor_rollout_ref.rollout.n=2"))
    with pytest.raises(RecipeError, match=r"at least 2 responses .*=gae, got 1"):
        read_settings(verl_config(*gae, "actor_rollout_ref.rollout.n=1"))
    read_settings(verl_config(*gae, "actor_rollout_ref.rollout.n=1", "+dqo.alpha=0"))
    read_settings(verl_config(*gae, "actor_rollout_ref.rollout.n=1", "+dqo.diversity=none"))


def test_a_mode_without_diversity_is_refused(verl_config):
    assert base_mode(verl_config("trainer.v1.trainer_mode=dqo_colocate_async")) == "colocate_async"
    with pytest.raises(RecipeError, match=r"trainer_mode to be one of dqo_sync, .* and 'sync', which .*without div"):
        base_mode(verl_config())
    with pytest.raises(RecipeError, match=r"expected use_v1=true .* got use_v1=False and 'dqo_sync'"):
        base_mode(verl_config("trainer.v1.trainer_mode=dqo_sync", "trainer.use_v1=false"))


def test_an_answer_span_that_does_not_exist_names_the_setting():
    from dqo.integrations.groups import GroupScorer, GroupSettings

    with pytest.raises(RecipeError, match=r"dqo.answer_span 'dqo.no_such.f': expected .*No module named 'dqo.no_such'"):
        GroupScorer(GroupSettings(encoder="hashed:64", answer_span="dqo.no_such.f"))


def test_the_answer_span_is_what_is_embedded(tmp_path):
    from dqo.integrations.groups import Group, GroupScorer, GroupSettings

    (tmp_path / "spans.py").write_text("def last_word(response):\n    return response.split()[-1]\n")
    scorer = GroupScorer(GroupSettings(encoder="hashed:64", answer_span=f"{tmp_path}/spans.py:last_word"))
    two, keys = [0.0, 0.0], ["a_0_0", "a_1_0"]
    same, other = scorer([Group(["a dog", "the old dog"], two, keys), Group(["a dog", "a cat"], two, keys)])
    assert same.numbers["cosine_distance"] == pytest.approx(0, abs=1e-6)
    assert same.credit == pytest.approx([0.405465, 0.405465], abs=1e-5)  # log(3/2): two copies at ridge 1
    assert other.numbers["cosine_distance"] > 0.3


def test_an_answer_span_that_finds_nothing_is_told(tmp_path):
    from dqo.integrations.groups import Group, GroupScorer, GroupSettings

    (tmp_path / "spans.py").write_text("import re\ndef gold(response):\n    return re.search('####', response)\n")
    scorer = GroupScorer(GroupSettings(encoder="hashed:64", answer_span=f"{tmp_path}/spans.py:gold"))
    with pytest.raises(RewardError, match=r"to return text, got None for the response 'a dog'; return ''"):
        scorer([Group(["a dog"], [0.0], ["a_0_0"])])


def test_a_set_function_pays_what_the_group_would_lose(tmp_path, verl_config):
    from dqo.integrations.groups import Group, GroupScorer, GroupSettings
    from dqo.integrations.verl.settings import read_settings

    (tmp_path / "count.py").write_text(
        "def words(prompt, answers, rewards):\n    assert prompt == 'Say.'\n    return float(len(set(answers)))\n"
    )
    chosen = {"diversity": "set", "set_function": f"{tmp_path}/count.py:words", "combine": "gate"}
    scorer = GroupScorer(GroupSettings(encoder="hashed:64", alpha=0.5, quality_threshold=0.5, **chosen))
    group = Group(["a dog", "a dog", "a cat", "a cow", ""], [1.0, 1.0, 1.0, 0.0, 1.0], list("abcde"), "Say.")
    (found,) = scorer([group])
    assert found.credit == [0, 0, 1, 0, 0], "copies, what fails and what is empty add no right answer"
    assert found.shaped == [1, 1, 1.5, 0, 1]
    flags = [f"+dqo.{name}={value}" for name, value in (chosen | {"quality_threshold": 0.5}).items()]
    with pytest.raises(RecipeError, match="no group's own std divides, got"):
        read_settings(verl_config(*flags, "actor_rollout_ref.rollout.n=4", "algorithm.adv_estimator=grpo"))
    settings = read_settings(verl_config(*flags, "actor_rollout_ref.rollout.n=4"))
    assert (settings.diversity, settings.set_function) == ("set", f"{tmp_path}/count.py:words")


def test_files_are_meant_from_where_the_command_was_given(tmp_path, monkeypatch):
    from dqo.integrations.verl.settings import DQOSettings, with_whole_paths

    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder").mkdir()
    settings = with_whole_paths(DQOSettings(answer_span="spans.py:gold", encoder="encoder"))
    assert (settings.answer_span, settings.encoder) == (f"{tmp_path}/spans.py:gold", f"{tmp_path}/encoder")
    named = DQOSettings(answer_span="my.module.gold")
    assert with_whole_paths(named) == named, "names of the hub and of modules stay"


@pytest.mark.parametrize("signal", ["dqo", "pairwise", "vendi", "elliptical", "partition", "graph_cut"])
def test_a_group_is_scored_alike_whatever_it_is_scored_beside(signal):
    from dqo.integrations.groups import Group, GroupScorer, GroupSettings

    same = 0.9 if signal == "partition" else None
    scorer = GroupScorer(GroupSettings(alpha=0.5, diversity=signal, encoder="hashed:64", same_threshold=same))
    group = Group(["the dog runs", "", "the dog runs"], [1.0, 0.2, 0.0], ["a", "b", "c"])
    beside = Group(["a cat", "green tree", "big house", "red car", "old man"], [0.5] * 5, list("defgh"))
    (alone,), (first, _) = scorer([group]), scorer([group, beside])
    assert first.shaped == pytest.approx(alone.shaped, abs=1e-9)


def test_estimators_that_divide_by_the_group_s_std(verl_config, caplog):
    from dqo.integrations.verl.settings import warn_of_group_std

    def said(*overrides):
        caplog.clear()
        warn_of_group_std(verl_config(*overrides))
        return caplog.text

    off = "algorithm.norm_adv_by_std_in_grpo=false"
    assert "adv_estimator=grpo divides" in said("algorithm.adv_estimator=grpo")
    assert "adv_estimator=grpo with" in said("algorithm.adv_estimator=grpo_vectorized", off)
    assert not said("algorithm.adv_estimator=grpo", off) + said("algorithm.adv_estimator=grpo_passk", off)
    assert not said("algorithm.adv_estimator=rloo")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("rollout", ["vllm", "sglang"])
def test_a_recipe_composes_and_its_settings_are_accepted(recipe, rollout, tmp_path, verl_config, tiny_policy_folder):
    """The script runs with a `python` that prints its arguments; verl composes what it would have been given.

    verl reads the configuration of the models while it checks the critic's, so the recipe gets one from disk.
    """
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\nshift 2\nprintf "%s\\n" "$@"\n')
    fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "ROLLOUT": rollout}
    environment["MODEL"] = str(tiny_policy_folder)
    done = subprocess.run(
        ["bash", recipe, "dqo.alpha=0.25"], env=environment, capture_output=True, text=True, check=True
    )
    config = verl_config(*done.stdout.splitlines())
    assert read_settings(config).alpha == 0.25, "the user's overrides come last and win"
    assert base_mode(config) == "sync"
    assert config.actor_rollout_ref.rollout.name == rollout
    validate_config(config, need_reference_policy(config), need_critic(config))
    assert not config.algorithm.norm_adv_by_std_in_grpo or config.algorithm.adv_estimator == "gae"


def test_there_are_recipes():
    assert len(RECIPES) >= 3


def test_the_command_refuses_a_mistake_in_one_sentence_and_status_2(tmp_path):
    command = [sys.executable, "-m", "dqo.integrations.verl.main", *GRPO, "+dqo.alhpa=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)  # hydra writes where it runs
    assert done.returncode == 2
    assert "error: dqo: expected a known setting, got 'alhpa'" in done.stderr
    assert "Traceback" not in done.stderr
