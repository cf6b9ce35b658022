"""Evaluation protocols by name: the settings that make two papers' numbers comparable.

| name | prompts | samples | measures it adds |
|---|---|---|---|
| `paper` | those given | 10 at temperature 1 | self-ROUGE |
| `noveltybench-1.0` | its 100 curated prompts | 10 at temperature 1, 512 tokens | classes by its classifier, utility |
| `passk` | those given | 64 unless told otherwise | none; it needs a task or reward |
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dqo.errors import RecipeError
from dqo.evaluation.sampling import length_of_call
from dqo.evaluation.words import self_rouge
from dqo.files.records import Group

Measures = Mapping[str, Callable[[list[str]], float]]


@dataclass(frozen=True)
class Protocol:
    """Settings that belong together under a name.

    Attributes:
        name: Its name.
        n: Responses a prompt.
        n_is_fixed: Whether another n is refused.
        temperature: Sampling temperature it demands; None leaves it to the user.
        max_new_tokens: Longest response; None leaves it to task and user.
        equivalence: What decides that two responses mean the same, as `load_equivalence` takes it.
        needs_quality: Whether it means nothing without rewards.
        hub_prompts: Data set of the hub, "owner/name:split", where no other prompts are given; None if it has none.
        headline: Metrics to print first.
        measures: Metrics of one prompt's texts that it adds.
    """

    name: str
    n: int
    n_is_fixed: bool
    temperature: float | None
    max_new_tokens: int | None
    equivalence: str
    needs_quality: bool
    hub_prompts: str | None
    headline: tuple[str, ...]
    measures: Measures = field(default_factory=dict)

    def check(self, groups: Sequence[Group]) -> None:
        """Refuse groups that do not have what the protocol is about.

        Args:
            groups: Scored or unscored groups.

        Raises:
            RecipeError: A group of another size, or without rewards where they are needed.
        """
        for group in groups:
            if self.n_is_fixed and len(group.responses) != self.n:
                raise RecipeError(
                    f"protocol {self.name!r}: expected {self.n} responses a prompt, got {len(group.responses)} for "
                    f"{group.id!r}; sample with --n {self.n}, or leave --protocol out."
                )
        if self.needs_quality and all(group.rewards is None for group in groups):
            raise RecipeError(f"protocol {self.name!r}: expected rewards, got none; give --task or --reward.")

    def check_sampling(self, sampling: Mapping[str, Any] | None) -> str | None:
        """Refuse responses that were drawn in another way.

        Args:
            sampling: What sampling.json holds; None where it is not known.

        Returns:
            A note where it is not known how they were drawn, though it matters; otherwise None.

        Raises:
            RecipeError: Another temperature, or another length of a response.
        """
        known = sampling or {}
        length = self.max_new_tokens and length_of_call(known.get("form"), self.max_new_tokens)
        demanded = {"temperature": self.temperature, "max_new_tokens": length}
        untold = []
        for name, value in demanded.items():
            if value is not None and name not in known:
                untold.append(f"{name} = {value}")
            elif value is not None and known[name] != value:
                raise RecipeError(
                    f"protocol {self.name!r}: expected responses sampled with {name} = {value}, got {known[name]!r}; "
                    "sample them anew, or leave --protocol out."
                )
        if not untold:
            return None
        return f"protocol {self.name!r} demands {', '.join(untold)}, and nothing says that the responses were drawn so."


PROTOCOLS = {
    "paper": Protocol(
        "paper", 10, True, 1.0, None, "embedding", False, None,
        ("quality", "pass@k", "max@k", "distinct_4", "self_rouge", "vendi_1", "cosine_distance"),
        {"self_rouge": self_rouge},
    ),
    "noveltybench-1.0": Protocol(
        "noveltybench-1.0", 10, True, 1.0, 512, "noveltybench-1.0", False, "yimingzhang/novelty-bench:curated",
        ("classes", "utility_k"),
    ),
    "passk": Protocol("passk", 64, False, None, None, "embedding", True, None, ("quality", "pass@k", "max@k")),
}  # fmt: skip


def protocol_of(name: str) -> Protocol:
    """The protocol of a name.

    Args:
        name: A key of `PROTOCOLS`.

    Returns:
        The protocol.

    Raises:
        RecipeError: An unknown name.
    """
    if name not in PROTOCOLS:
        raise RecipeError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {name!r}.")
    return PROTOCOLS[name]
