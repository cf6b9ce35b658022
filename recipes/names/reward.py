"""An example of a reward function: a name is one to four words, on one line, and the model stopped by itself."""


def short_name(prompts, completions, *, ended, **columns):
    """Quality of each completion: 1 for a name, 0 otherwise.

    Args:
        prompts: N prompts.
        completions: N responses.
        ended: N booleans, whether the response ended by itself.
        **columns: `reference` and `meta` of the prompts.

    Returns:
        N numbers in [0, 1]; None would mark a response that cannot be scored.
    """
    return [float(stopped and _is_name(text)) for text, stopped in zip(completions, ended, strict=True)]


def _is_name(text):
    return len(text.strip().splitlines()) == 1 and 1 <= len(text.split()) <= 4
