"""The settings of a recipe as one flat table, `trainer.learning_rate: 1e-5`, and back to sections."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqo.errors import RecipeError
from dqo.run_format import check_format
from dqo.yaml_files import read_yaml_file

SECTIONS = ("task_options", "data", "lora", "trainer")


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings of a recipe file by dotted name, not yet checked.

    Args:
        path: YAML file.

    Returns:
        Dotted name -> value, in file order.

    Raises:
        RecipeError: An unreadable file, or a section that is no mapping.
        DataError: A config.yaml that a newer dqo has written.
    """
    document = read_yaml_file(path)
    check_format(document, path)
    document.pop("format", None)  # of a config.yaml, which is a recipe again
    return flat_settings(document, str(path))


def flat_settings(document: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Settings by dotted name.

    Args:
        document: Settings as a recipe nests them, or dotted already.
        origin: Where they come from, for messages.

    Returns:
        Dotted name -> value.

    Raises:
        RecipeError: A section that is no mapping, or a setting that is given twice.
    """
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if key not in SECTIONS or isinstance(value, dict):
            given = {f"{key}.{name}": inner for name, inner in value.items()} if key in SECTIONS else {key: value}
            if twice := [name for name in given if name in flat]:
                raise RecipeError(
                    f"{origin}: expected each setting once, got {twice[0]!r} both in its section and by its dotted "
                    "name; remove one of the two."
                )
            flat |= given
        elif value is not None:
            raise RecipeError(f"{origin}: `{key}` must be a mapping of settings, got {value!r}; indent them below it.")
    return flat


def not_cleared(settings: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """What stays of earlier settings under a document that changes some: one with `lora: {}` means no LoRA at all.

    Args:
        settings: Dotted name -> value, the earlier ones.
        document: What is laid over them, as `flat_settings` takes it.

    Returns:
        The settings without those of a section that the document names and leaves empty or null.
    """
    cleared = [key for key in SECTIONS if key in document and not document[key]]
    return {key: value for key, value in settings.items() if key.partition(".")[0] not in cleared}


def nested_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name as a recipe nests them; the reverse of `flat_settings`.

    Args:
        settings: Dotted name -> value.

    Returns:
        What to write as YAML.
    """
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    return nested
