"""What a run remembers between steps, kept in the host's own trainer_state.json and taken up again on a resume."""

from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dqo.errors import RecipeError

KEY = "dqo"


class Remembers(Protocol):
    """A part of the run with a memory, as plain data that JSON keeps exactly."""

    def state(self) -> Any:
        """What must be kept; empty where there is nothing."""
        ...

    def load(self, state: Any) -> None:
        """Continue where `state` was taken."""
        ...


class RunMemory(TrainerCallback):
    """Puts the parts' memories into the trainer's state after every step, and back when training begins.

    The host writes that state last of a checkpoint and in one file, so a checkpoint that is whole has them.

    Args:
        parts: name -> part.
    """

    def __init__(self, parts: dict[str, Remembers]) -> None:
        self.parts = parts

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up the memories of the checkpoint that is resumed; a controlled alpha may not start anew in a run."""
        kept = state.stateful_callbacks.get(KEY, {})
        if state.global_step > 0 and self.parts["alpha"].state() and not kept.get("alpha"):
            raise RecipeError(
                f"the checkpoint of step {state.global_step} was written without the state of alpha='auto', which "
                "would start anew; resume with the alpha of that run, or start another run."
            )
        for name, part in self.parts.items():
            if kept.get(name):
                part.load(kept[name])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Before the host may save."""
        state.stateful_callbacks[KEY] = {name: part.state() for name, part in self.parts.items()}
