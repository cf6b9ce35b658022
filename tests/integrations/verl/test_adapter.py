"""The mixin on a real Ray and a real TransferQueue, with verl's own `_compute_advantage` below it."""

import pytest

pytest.importorskip("verl", reason="verl is not installed: make test-oldest")

from types import SimpleNamespace

import numpy as np
from verl.trainer.ppo.v1 import PPOTrainerSync

from dqo.errors import DQOError, EncoderError, RecipeError, RewardError
from dqo.integrations import groups
from dqo.integrations.verl import scoring
from dqo.integrations.verl.scoring import ActorScorer
from dqo.integrations.verl.settings import DQOSettings
from dqo.integrations.verl.trainer import ALPHA_FILE

from . import batches
from .batches import ALPHA, ENCODER, Row, mixed_batch, put, read

ORACLES = {"grpo": batches.expected_grpo, "rloo": batches.expected_rloo, "gae": batches.expected_gae_returns}


def check(trainer, tq, tokenizer, estimator, rows):
    """Run the step and hold all that it writes against the oracles; returns the metrics."""
    batch, metrics = put(tq, tokenizer, rows), {}
    trainer._compute_advantage(batch, metrics)
    field = "returns" if estimator == "gae" else "advantages"
    found, expected = read(tq, batch, field), ORACLES[estimator](rows)
    for row, got, want in zip(rows, found, expected, strict=True):
        got = np.array(got) * row.mask  # what lies on masked tokens goes into no loss
        np.testing.assert_allclose(got, want, atol=2e-5, err_msg=f"{field} of {row.key}")
    scores = read(tq, batch, "rm_scores")
    assert scores == [pytest.approx(row.token_scores()) for row in rows], "the task score must be put back"
    task, part = batches.expected_rewards(rows)
    shaped = [sum(row) for row in read(tq, batch, "token_level_rewards")]
    np.testing.assert_allclose(shaped, np.add(task, part), atol=1e-5, err_msg="token_level_rewards")
    real = [row for row in rows if not row.padding]
    assert metrics["diversity/rows"] == len(real)
    assert metrics["diversity/groups"] == len({row.uid for row in real})
    assert metrics["quality"] == pytest.approx(np.mean([row.score for row in real]))
    return metrics


@pytest.mark.parametrize("estimator", ORACLES)
def test_advantages_are_those_of_task_plus_credit(make_trainer, transfer_queue, tiny_tokenizer, estimator):
    metrics = check(make_trainer(estimator), transfer_queue, tiny_tokenizer, estimator, mixed_batch())
    credits = [c for texts in (("b",), ("a",)) for c in _credits(mixed_batch(), texts[0])]
    assert metrics["diversity/credit"] == pytest.approx(np.mean(credits), abs=1e-6)


def _credits(rows, uid):
    return batches.brute_force_credits([row.words for row in rows if row.uid == uid])


def test_copies_earn_less_than_what_is_different():
    credits = dict(zip([2, 0, 3, 1], _credits(mixed_batch(), "a"), strict=True))
    assert credits[0] == pytest.approx(credits[2])
    assert credits[0] < 0.5 < credits[1] < 0.7


def test_alpha_0_is_verl_alone(make_trainer, transfer_queue, tiny_tokenizer):
    rows = mixed_batch()
    batch = put(transfer_queue, tiny_tokenizer, rows)
    make_trainer("grpo", alpha=0.0)._compute_advantage(batch, {})
    for got, want in zip(read(transfer_queue, batch, "advantages"), batches.expected_grpo(rows, alpha=0), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_alpha_follows_its_schedule_by_verl_s_steps(make_trainer, transfer_queue, tiny_tokenizer):
    """From 0.8 at the first of five steps in a line to 0 at the last; verl counts steps from 1."""
    trainer = make_trainer("grpo", "+dqo.alpha_schedule=linear", alpha=0.8)
    rows, seen = mixed_batch(), []
    for trainer.global_steps in (1, 3, 5):
        metrics = {}
        batch = put(transfer_queue, tiny_tokenizer, rows)
        trainer._compute_advantage(batch, metrics)
        seen.append(metrics["alpha"])
        expected = batches.expected_grpo(rows, alpha=metrics["alpha"])
        for row, got, want in zip(rows, read(transfer_queue, batch, "advantages"), expected, strict=True):
            np.testing.assert_allclose(np.array(got) * row.mask, want, atol=2e-5)
    assert seen == pytest.approx([0.8, 0.4, 0.0])


def test_alpha_auto_learns_and_goes_on_from_a_checkpoint(make_trainer, transfer_queue, tiny_tokenizer, tmp_path):
    """verl's own code saves and loads; its workers and data loader have nothing to keep here."""
    file, kept_first = tmp_path / "global_step_4" / ALPHA_FILE, []

    def make(alpha, *settings):
        trainer = make_trainer("grpo", f"trainer.default_local_dir={tmp_path}", *settings, alpha=alpha)
        trainer.actor_rollout_wg = SimpleNamespace(
            save_checkpoint=lambda *_, **__: kept_first.append(file.exists()), load_checkpoint=lambda **_: None
        )
        trainer.train_dataloader = SimpleNamespace(state_dict=dict, load_state_dict=lambda state: None)
        return trainer

    def step(trainer):
        metrics = {}
        trainer._compute_advantage(put(transfer_queue, tiny_tokenizer, mixed_batch()), metrics)
        trainer.global_steps += 1
        return metrics["alpha"]

    trainer = make("auto", "+dqo.vendi_target=4")
    alphas = [step(trainer) for _ in range(3)]
    assert alphas[0] == 1.0 < alphas[1] < alphas[2], "the target is above what three words can reach"
    trainer._save_checkpoint()  # verl counts to 4 here, the step that would come next
    assert kept_first == [True], "verl's own files make the folder a checkpoint, so ours must lie there before"
    following = step(trainer)
    again = make("auto", "+dqo.vendi_target=4")
    again._load_checkpoint()
    assert again.global_steps == 4
    assert step(again) == following
    file.unlink()
    with pytest.raises(RecipeError, match=r"global_step_4/dqo_alpha.json: expected what dqo.alpha=auto had learned"):
        make("auto", "+dqo.vendi_target=4")._load_checkpoint()
    make(ALPHA)._load_checkpoint()  # has learned nothing


def test_groups_divided_among_actors_give_the_same_numbers(make_trainer, transfer_queue, tiny_tokenizer, monkeypatch):
    trainer = make_trainer("grpo", "dqo.encoder_actors=2")
    had_actors = []
    monkeypatch.setattr(PPOTrainerSync, "init", lambda self: had_actors.append(isinstance(self._score, ActorScorer)))
    trainer.init()
    assert had_actors == [False], "verl takes its resources first: it waits for them without end"
    assert len(trainer._score._actors) == 2
    check(trainer, transfer_queue, tiny_tokenizer, "grpo", mixed_batch())


def test_actors_take_half_of_what_ray_has_free(transfer_queue, monkeypatch):
    free = {"CPU": 13.0, "GPU": 2.0}
    monkeypatch.setattr(scoring.ray, "available_resources", lambda: free)
    assert scoring.actors_for(DQOSettings()) == 6
    assert scoring.actors_for(DQOSettings(encoder_cpus=3)) == 2
    assert scoring.actors_for(DQOSettings(encoder_gpus=1.0)) == 1
    assert scoring.actors_for(DQOSettings(encoder_actors=5)) == 5
    free |= {"CPU": 200.0}
    assert scoring.actors_for(DQOSettings()) == 8, "every actor loads an encoder"
    free.clear()  # a resource that is taken whole is not listed
    assert scoring.actors_for(DQOSettings()) == 1


def test_an_encoder_that_does_not_exist_is_told_before_verl_loads_anything(make_trainer):
    with pytest.raises(EncoderError, match=r"hashed:wide' to be 'hashed', a folder or an encoder the hub serves"):
        make_trainer("grpo", "dqo.encoder_actors=1", "dqo.encoder=hashed:wide")


def test_a_mistake_found_in_an_actor_is_told_in_one_sentence(transfer_queue):
    with pytest.raises(EncoderError, match=r"hashed:wide' to be 'hashed', a folder or an encoder") as caught:
        ActorScorer(DQOSettings(encoder="hashed:wide"))
    assert "\n" not in str(caught.value)


def test_actors_for_which_there_is_no_room_are_told_in_one_sentence(transfer_queue, monkeypatch):
    monkeypatch.setattr(scoring, "_START_SECONDS", 1)
    with pytest.raises(EncoderError, match=r"1 encoder actors with 64 CPUs .* 1 did not .*lower dqo.encoder_actors"):
        ActorScorer(DQOSettings(encoder=ENCODER, encoder_cpus=64))


def test_a_reward_out_of_range_is_told_by_its_response(make_trainer, transfer_queue, tiny_tokenizer):
    rows = mixed_batch()
    rows[3].score = 1.5
    batch = put(transfer_queue, tiny_tokenizer, rows)
    with pytest.raises(
        DQOError, match=r"of the responses a_2_0, a_0_0, .*: combine='quality_weighted' .* row \d has 1.5"
    ):
        make_trainer("grpo", "+dqo.combine=quality_weighted")._compute_advantage(batch, {})


def test_effective_alpha_leaves_out_groups_that_nothing_sets_apart(make_trainer, transfer_queue, tiny_tokenizer):
    def buys(*more):
        batch, metrics = put(transfer_queue, tiny_tokenizer, [*mixed_batch(), *more]), {}
        make_trainer("grpo", "+dqo.combine=gate", "+dqo.quality_threshold=2")._compute_advantage(batch, metrics)
        return metrics["alpha_effective"]

    tied = [Row("t", session, "happy bird", 0.0) for session in range(3)]
    assert buys() < 10 * ALPHA
    assert buys(*tied) == pytest.approx(buys())


def test_the_asynchronous_trainer_does_the_same(make_trainer, transfer_queue, tiny_tokenizer):
    trainer = make_trainer("grpo", name="DQOTrainerColocateAsync", mode="dqo_colocate_async")
    assert trainer.config.trainer.v1.trainer_mode == trainer.trainer_mode == "colocate_async"
    check(trainer, transfer_queue, tiny_tokenizer, "grpo", mixed_batch())


def test_a_response_that_is_alone_gets_no_credit(make_trainer, transfer_queue, tiny_tokenizer):
    rows = [*mixed_batch(), Row("c", 0, "happy bird", 1.0)]
    batch, metrics = put(transfer_queue, tiny_tokenizer, rows), {}
    make_trainer("grpo")._compute_advantage(batch, metrics)
    assert read(transfer_queue, batch, "token_level_rewards")[-1] == [0.0, 1.0]
    assert metrics["diversity/lone_rows"] == 1


def test_every_output_of_a_session_carries_the_session_s_part(make_trainer, transfer_queue, tiny_tokenizer):
    rows = mixed_batch()
    rows.insert(0, Row("a", 1, "the old", 0.0, output=1))  # the final output of session 1 of prompt a
    rows[-1].words = "big house"
    batch, metrics = put(transfer_queue, tiny_tokenizer, rows), {}
    make_trainer("grpo")._compute_advantage(batch, metrics)
    texts = ["big house\nthe old", "the dog runs fast", "the dog runs fast", "green tree"]
    part = ALPHA * batches.brute_force_credits(texts)[0]
    shaped = read(transfer_queue, batch, "token_level_rewards")
    assert [sum(shaped[0]), sum(shaped[-1])] == pytest.approx([part, part], abs=1e-5)
    assert metrics["diversity/rows"] == 7


def test_reasoning_traces_are_not_embedded(make_trainer, transfer_queue, tiny_tokenizer):
    """Closed; closed where the prompt opened it; cut off where the prompt opened it, so that no marker shows."""
    rows = [
        Row("a", 0, "red tree blue the dog", 1.0),
        Row("a", 1, "cat sings blue the dog", 1.0, prompt="the dog red"),
        Row("a", 2, "cat sleeps", 0.0, prompt="the dog red"),
        Row("a", 3, "green tree", 1.0),
    ]
    batch, metrics = put(transfer_queue, tiny_tokenizer, rows), {}
    make_trainer("grpo", "+dqo.trace_markers=red...blue")._compute_advantage(batch, metrics)
    shaped = [sum(row) for row in read(transfer_queue, batch, "token_level_rewards")]
    credits = batches.brute_force_credits(["the dog", "the dog", "", "green tree"])
    assert credits[2] == pytest.approx(0.0)
    assert shaped == pytest.approx(
        [row.score + ALPHA * credit for row, credit in zip(rows, credits, strict=True)], abs=1e-5
    )
    assert metrics["responses/traced"] == 0.75
    assert metrics["responses/unclosed"] == 0.25


def test_kl_in_reward_is_taken_off_the_shaped_reward(make_trainer, transfer_queue, tiny_tokenizer):
    from tensordict import TensorDict
    from torch import ones_like

    rows = [row for row in mixed_batch() if not row.padding]
    batch, metrics = put(transfer_queue, tiny_tokenizer, rows), {}
    masks = transfer_queue.kv_batch_get(batch.keys, batch.partition_id, select_fields=["response_mask"])[
        "response_mask"
    ]
    logps = TensorDict({"old_log_probs": -masks.float(), "ref_log_prob": -1.5 * ones_like(masks.float())}, len(rows))
    transfer_queue.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=logps)
    trainer = make_trainer("grpo", "algorithm.use_kl_in_reward=true", "algorithm.kl_ctrl.kl_coef=0.1")
    trainer._compute_advantage(batch, metrics)
    task, part = batches.expected_rewards(rows)
    penalty = [0.1 * 0.5 * sum(row.mask) for row in rows]
    shaped = [sum(row) for row in read(transfer_queue, batch, "token_level_rewards")]
    np.testing.assert_allclose(shaped, np.add(task, part) - penalty, atol=1e-4)


def test_a_reward_that_is_not_finite_stops_the_run_by_its_row(make_trainer, transfer_queue, tiny_tokenizer):
    rows = mixed_batch()
    rows[3].score = float("nan")
    batch = put(transfer_queue, tiny_tokenizer, rows)
    with pytest.raises(RewardError, match=r"row a_0_0 has nan.*fix the reward function"):
        make_trainer("grpo")._compute_advantage(batch, {})


def test_the_task_score_is_put_back_when_verl_raises(make_trainer, transfer_queue, tiny_tokenizer):
    trainer, rows = make_trainer("no_such_estimator"), mixed_batch()
    batch = put(transfer_queue, tiny_tokenizer, rows)
    with pytest.raises(ValueError, match="no_such_estimator"):
        trainer._compute_advantage(batch, {})
    assert read(transfer_queue, batch, "rm_scores") == [pytest.approx(row.token_scores()) for row in rows]


def _wrong_sign(trainer):
    real = groups.shape_reward

    def mutant(reward, *rest):
        shaped, group = real(reward, *rest)
        return 2 * reward - shaped, group

    return groups, "shape_reward", mutant


def _pooled_groups(trainer):
    real = trainer._group_rows
    return trainer, "_group_rows", lambda keys, tags: [[s for g in real(keys, tags) for s in g]]


def _misaligned_rows(trainer):
    real = trainer._add_credit

    def mutant(scores, masks, groups, found, read):
        return real(scores, masks, [[*g[1:], g[0]] for g in groups], found, read)

    return trainer, "_add_credit", mutant


def _score_not_restored(trainer):
    real = trainer._put
    return trainer, "_put", lambda batch, fields: real(batch, fields) if "token_level_rewards" in fields else None


def _padding_not_skipped(trainer):
    real = trainer._group_rows
    return trainer, "_group_rows", lambda keys, tags: real(keys, [{} for _ in tags])


def _credit_on_the_last_token(trainer):
    real = trainer._add_credit

    def mutant(scores, masks, *rest):
        return real(scores, [m | 1 for m in masks], *rest)

    return trainer, "_add_credit", mutant


@pytest.mark.parametrize(
    ("mutant", "estimator", "complaint"),
    [
        (_wrong_sign, "grpo", "advantages of b_0_0"),
        (_pooled_groups, "grpo", "advantages of b_0_0"),
        (_misaligned_rows, "grpo", "advantages of b_0_0"),
        (_score_not_restored, "grpo", "task score must be put back"),
        (_padding_not_skipped, "grpo", "9 == 7"),
        (_credit_on_the_last_token, "gae", "returns of b_2_0"),
    ],
)
def test_the_check_catches(mutant, estimator, complaint, make_trainer, transfer_queue, tiny_tokenizer, monkeypatch):
    from dqo.integrations.verl import trainer

    monkeypatch.setattr(*mutant(trainer))
    with pytest.raises(AssertionError, match=complaint):
        check(make_trainer(estimator), transfer_queue, tiny_tokenizer, estimator, mixed_batch())
