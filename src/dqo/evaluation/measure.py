"""Every metric of lists of strings in one call, for a notebook or a model trained elsewhere."""

from collections.abc import Mapping, Sequence

from dqo.errors import DataError


def measure(
    responses: Mapping[str, Sequence[str]],
    rewards: Mapping[str, Sequence[float]] | None = None,
    *,
    encoder: str = "all-MiniLM-L6-v2",
) -> dict[str, dict[str, float] | None]:
    """Every metric of the responses to some prompts, with 95 % bootstrap intervals over the prompts.

    Args:
        responses: Prompt -> its responses, in the order they were sampled.
        rewards: Prompt -> one reward a response, for the metrics that need quality.
        encoder: Name of the encoder that measures meaning, as `dqo.embedders.load_embedder` takes it; "hashed" needs
            no weights but knows no meaning.

    Returns:
        Metric name -> {"mean", "low", "high"}, None where a metric needs rewards and there are none; `definition_of`
        says what each is.

    Raises:
        DataError: If there is no prompt, a prompt without responses, or not one finite reward a response.
        EncoderError: If the encoder cannot be loaded.
    """
    from dqo.embedders import load_embedder
    from dqo.evaluation.metrics import prompt_values, summarize
    from dqo.records import Group

    groups = []
    for prompt, texts in responses.items():
        if isinstance(texts, str) or not texts:
            raise DataError(f"Expected a list of one response or more to prompt {prompt!r}, got {texts!r}.")
        scores = None if rewards is None else [float(reward) for reward in rewards.get(prompt, ())]
        if scores is not None and len(scores) != len(texts):
            raise DataError(f"Expected {len(texts)} rewards for prompt {prompt!r}, one a response, got {len(scores)}.")
        groups.append(Group(prompt, prompt, [], list(texts), ["eos"] * len(texts), scores, {}))
    values = prompt_values(groups, load_embedder(encoder))
    del values["truncated"]  # lists of strings do not say whether a response was cut off
    return summarize(values, seed=0)
