"""What acts on advantages: guards against tied groups and the pass@k objective, plugged in behind the host's scoring.

Seam: `_generate_and_score_completions`, whose super() returns this process's rows; they are replaced there, in the
batch and in the host's log of completions.
"""

from typing import Any

from accelerate.utils import gather
from torch import Tensor

from dqo.core import scaled_advantage, tied_groups
from dqo.diversity.credit import Evidence, read_signal


class AdvantageMixin:
    """Replaces the host's advantages where a setting or the signal asks; reads `spec` and `_scored` of DQOMixin."""

    def _generate_and_score_completions(self, inputs: list) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        task, shaped = self._scored  # (P, G) each
        here = self._own_rows(len(output["advantages"]))
        if self._replaces_advantages():
            host = gather(output["advantages"])  # (N,)
            ours = self._advantages(host.view_as(task).double(), task, shaped).flatten().to(host.dtype)  # (N,)
            output["advantages"] = ours[here]
            self._replace_logged_advantages(ours)
        if self.spec.signal.place == "loss" and "correct" in self.spec.needs:
            output["correct"] = self.spec.correct(task.flatten())[here]  # (N_local,)
        return output

    def _own_rows(self, count: int) -> slice:
        """Where this process's rows lie in those of all, each having as many."""
        return slice(self.accelerator.process_index * count, (self.accelerator.process_index + 1) * count)

    def _replace_logged_advantages(self, advantages: Tensor) -> None:
        """Put (N,) of all processes into the host's table of completions in the place of its own."""
        logged = self._logs["advantages"]  # holds a batch of training, which one of evaluation may exceed
        for _ in range(min(len(advantages), len(logged))):
            logged.pop()
        logged.extend(advantages.tolist())

    def _replaces_advantages(self) -> bool:
        return self._guards_scaling() or self.args.skip_tied_groups or self.spec.signal.place == "advantage"

    def _guards_scaling(self) -> bool:
        return bool(getattr(self.args, "std_floor", 0.0) or getattr(self.args, "decouple_credit", False))

    def _advantages(self, host: Tensor, task: Tensor, shaped: Tensor) -> Tensor:
        """Advantages of all processes' rows: (P, G), the host's where nothing changes them."""
        advantages = host
        if self._guards_scaling():
            advantages = scaled_advantage(
                task,
                shaped,
                self.scale_rewards,
                std_floor=self.args.std_floor,
                decoupled=self.args.decouple_credit,
            )  # (P, G)
        if self.spec.signal.place == "advantage":
            seen = Evidence(correct=self.spec.correct(task), scored=~task.isnan())
            own = read_signal(seen, self.spec)  # (P, G)
            advantages = (1.0 - self.spec.alpha) * advantages + self.spec.alpha * own
        if self.args.skip_tied_groups:
            advantages = advantages.masked_fill(tied_groups(task).unsqueeze(1), 0.0)
        return advantages
