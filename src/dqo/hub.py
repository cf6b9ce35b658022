"""What can be known about a hub name before a loader spends a minute on retries, and where copies are kept."""

import os
from pathlib import Path

from dqo.errors import RecipeError


def cache_folder() -> Path:
    """`$DQO_CACHE`, or `~/.cache/dqo`: converted models and data sets read from the hub."""
    return Path(os.environ.get("DQO_CACHE") or "~/.cache/dqo").expanduser()


def is_hub_name(name: str) -> bool:
    """Whether a name has the form of a hub name, `model` or `owner/model`; nothing is asked of the network."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def why_unavailable(name: str) -> str | None:
    """Why the hub cannot serve a model, in a few words; None when it can, or when its files are in the local cache.

    The loaders of transformers retry for most of a minute when there is no network, file by file; one request with a
    time limit says the same at once, and tells an unknown or gated model from a dead network.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    markers = ("config.json", "adapter_config.json", "modules.json")
    if any(isinstance(try_to_load_from_cache(name, marker), str) for marker in markers):
        return None
    try:
        HfApi().model_info(name, timeout=10)
    except Exception as error:  # the hub's, its client's or the socket's: all of them mean the same to the user
        return first_words(error)
    return None


def check_login() -> None:
    """Ask the hub who is logged in, before a run that is to end there starts.

    Raises:
        RecipeError: Nobody, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except Exception as error:  # the hub's, its client's or the socket's: all of them mean the same to the user
        raise RecipeError(
            f"trainer.push_to_hub: expected a hub that can be reached and a login there, got {first_words(error)}; log "
            "in with `hf auth login`, or remove the setting."
        ) from error


def asks_for_code(error: Exception) -> bool:
    """Whether a loader failed because a model brings code of its own, which is never run."""
    return "trust_remote_code" in str(error)


def why_failed(error: Exception) -> str:
    """Why a model did not load, for quoting inside a sentence of ours.

    Args:
        error: The loader's, which advises an option that dqo does not have where a model brings code of its own.

    Returns:
        A few words.
    """
    return "it brings code of its own, which dqo never runs" if asks_for_code(error) else first_words(error)


def first_words(error: Exception, limit: int = 240) -> str:
    """Type and start of an error's text on one line, for quoting inside a sentence of ours."""
    words = " ".join(str(error).split())
    short = words if len(words) <= limit else words[:limit].rsplit(" ", 1)[0] + " …"
    return ": ".join(filter(None, (type(error).__name__, short.rstrip(" .:"))))
