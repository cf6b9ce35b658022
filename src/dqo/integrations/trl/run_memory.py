"""What a run remembers between steps, kept in the host's own trainer_state.json and taken up again on a resume."""

from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dqo.checkpoints import KEY
from dqo.errors import RecipeError


class Remembers(Protocol):
    """A part of the run with a memory, as plain data that JSON keeps exactly."""

    def state(self) -> Any:
        """What must be kept; empty where there is nothing."""
        ...

    def load(self, state: Any) -> None:
        """Continue where `state` was taken."""
        ...


class RolloutAlpha:
    """Alpha of the newest rollout of training, for updates from it after an evaluation or in a resumed run.

    Args:
        value: What it is before the first rollout.
    """

    def __init__(self, value: float) -> None:
        self.value = value

    def state(self) -> dict[str, Any]:
        """The number."""
        return {"value": self.value}

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken.

        Args:
            state: What `state()` returned.
        """
        self.value = state["value"]


class RunMemory(TrainerCallback):
    """Gives the parts' memories for the trainer's state, and puts them back when training begins.

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
            if not kept.get(name):
                continue
            try:
                part.load(kept[name])
            except KeyError as error:
                raise RecipeError(
                    f"the checkpoint of step {state.global_step} was written by another version of dqo: its memory of "
                    f"{name!r} lacks {error}; resume with that version, or start another run."
                ) from error

    def state(self) -> dict[str, Any]:
        """The memories by name, as they are when a checkpoint is written."""
        return {name: part.state() for name, part in self.parts.items()}
