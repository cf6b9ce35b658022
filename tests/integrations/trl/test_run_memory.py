"""What a checkpoint remembers is taken up again, or the run says why it cannot be."""

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from dqo.diversity.alpha import AlphaBounds, AlphaControl, FlooredAlpha
from dqo.errors import RecipeError
from dqo.files.run import KEY
from dqo.integrations.trl.resume import RunMemory


def test_a_memory_of_another_version_is_refused_in_a_sentence(tmp_path):
    alpha = FlooredAlpha(AlphaControl(AlphaBounds(low=0.1, start=0.5, high=2.0, rate=1.0)), floor=0.5)
    older = {"control": {"memory": 0.0, "error": 0.0, "seen": 3}, "first": 0.4}  # before the band of rest
    state = TrainerState(global_step=3, stateful_callbacks={KEY: {"alpha": older}})
    args = TrainingArguments(str(tmp_path), use_cpu=True)
    expected = "step 3 was written by another version of dqo: its memory of 'alpha' lacks 'room'; resume with that"
    with pytest.raises(RecipeError, match=expected):
        RunMemory({"alpha": alpha}).on_train_begin(args, state, TrainerControl())
