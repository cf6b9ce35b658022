"""Every metric of lists of strings in one call, for a notebook or a model trained elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dqo.errors import DataError
from dqo.rewards.checked import finite_number


def measure(
    responses: Mapping[str, Sequence[str]],
    rewards: Mapping[str, Sequence[float | None]] | None = None,
    *,
    encoder: str | Callable[[list[str]], Any] = "all-MiniLM-L6-v2",
) -> dict[str, dict[str, float] | None]:
    """Every metric of the responses to some prompts, with 95 % bootstrap intervals over the prompts.

    Args:
        responses: Prompt -> its responses, in the order they were sampled.
        rewards: Prompt -> one reward a response, for the metrics that need quality; None for one that could not be
            scored, whose prompt these metrics leave out.
        encoder: Name of the encoder that measures meaning, as `dqo.embedders.load_embedder` takes it ("hashed" needs
            no weights but knows no meaning), or a function list[str] -> (N, D).

    Returns:
        Metric name -> {"mean", "low", "high"} over the prompts where it is defined, None where it is for none;
        `definition_of` says what each is, and when it is undefined.

    Raises:
        DataError: If there is no prompt, a prompt without responses, or not one finite reward or None a response.
        EncoderError: If the encoder cannot be loaded.
    """
    from dqo.embedders import chosen_embedder
    from dqo.evaluation.metrics import prompt_values, summarize
    from dqo.records import Group

    for name, given in (("responses", responses), ("rewards", {} if rewards is None else rewards)):
        if not isinstance(given, Mapping):
            raise DataError(f"`{name}` must be a dict from each prompt to a list, got a {type(given).__name__}.")
    groups = []
    for prompt, texts in responses.items():
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(f"Expected a list of one response or more to prompt {prompt!r}, got {texts!r}.")
        scores = None if rewards is None else _scores(prompt, rewards.get(prompt, []), len(texts))
        groups.append(Group(prompt, prompt, [], list(texts), ["eos"] * len(texts), scores, {}))
    values = prompt_values(groups, chosen_embedder(encoder))
    del values["truncated"]  # lists of strings do not say whether a response was cut off
    return summarize(values, seed=0)


def _scores(prompt: str, rewards: Sequence[float | None], n: int) -> list[float] | None:
    """The rewards of a prompt's n responses; None where one could not be scored."""
    numbers = [None if reward is None else finite_number(reward) for reward in rewards]
    if len(numbers) != n or numbers.count(None) != sum(reward is None for reward in rewards):
        raise DataError(f"Expected {n} rewards for prompt {prompt!r}, one number or None a response, got {rewards!r}.")
    return None if None in numbers else numbers
