"""Every error a user can cause. Each message is one sentence: what was expected, what came, which item, what to change.

The command line prints such an error without a traceback and exits with status 2; anything else that escapes is a
bug of ours and keeps its traceback. Standard library only, so that every layer may raise them.
"""


class DQOError(ValueError):
    """Base of every error caused by input, settings or environment rather than by a bug."""


class NonFiniteError(DQOError):
    """NaN or infinity where a finite number was promised; the message names the row."""


class NotPSDError(DQOError):
    """A kernel matrix that is not symmetric positive semi-definite; the message names the group."""


class GroupError(DQOError):
    """Rows that do not form whole groups of responses to one prompt."""


class DataError(DQOError):
    """A bad file or record; the message names file, line and field."""


class RecipeError(DQOError):
    """A recipe, override or configuration that cannot be run as written."""


class RewardError(DQOError):
    """A reward function that raised, or returned the wrong count, type or a non-finite number."""


class ModelError(DQOError):
    """A policy, tokenizer or checkpoint that cannot be found or used."""


class EncoderError(DQOError):
    """An encoder that cannot be found, or returned something that is not one finite vector per text."""


class TrainingError(DQOError):
    """A training step whose numbers cannot be trained on; the message names the step."""


class EndpointError(DQOError):
    """A server of completions, judgements or embeddings that cannot be reached, or does not answer as asked."""
