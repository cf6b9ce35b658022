"""Reward functions that tests name by path."""

NOT_A_FUNCTION = 3


def by_length(prompts, completions, *, reference, meta, ended):
    assert len(prompts) == len(completions) == len(reference) == len(meta) == len(ended)
    return [None if not done else min(1.0, len(text) / 10) for text, done in zip(completions, ended, strict=True)]


def by_reference(prompts, completions, *, reference, meta, ended):
    return [
        float(text == gold and row["level"] > 1) for text, gold, row in zip(completions, reference, meta, strict=True)
    ]


def nan(prompts, completions, **columns):
    return [0.5, float("nan")]


async def later(prompts, completions, **columns):
    return [1.0] * len(completions)
