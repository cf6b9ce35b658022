"""Responses and per-prompt metrics as pandas DataFrames, and as parquet files beside an evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dqo.evaluation.responses import read_responses
from dqo.files.evaluation import read_prompt_metrics
from dqo.files.records import Group, write_bytes

if TYPE_CHECKING:
    from pandas import DataFrame

PARQUET = ("responses.parquet", "prompt_metrics.parquet")


def responses_frame(source: str | Path | Sequence[Group]) -> "DataFrame":
    """Makes a table of responses, one row per response.

    Args:
        source: Folder of an evaluation or of samples, anything else that `read_responses` takes, or groups.

    Returns:
        N rows of `id`, `prompt` (of several messages a transcript), `sample` (from 0, in the order they were sampled),
        `response`, `finish` and `reward` (NaN where not scored).

    Raises:
        DataError: A file that is missing or broken.
    """
    from pandas import DataFrame

    if isinstance(source, str | Path):
        own = Path(source) / "groups.jsonl"
        source = read_responses(own if own.is_file() else source).groups
    rows = [
        (group.id, str(group.prompt), sample, str(text), finish, reward)
        for group in source
        for sample, (text, finish, reward) in enumerate(
            zip(group.responses, group.finish, group.rewards or [None] * len(group.responses), strict=True)
        )
    ]
    columns = ["id", "prompt", "sample", "response", "finish", "reward"]
    return DataFrame(rows, columns=columns).astype({"reward": "float64"})


def prompt_metrics_frame(folder: str | Path) -> "DataFrame":
    """Makes a table of the metrics of each prompt, one row per prompt; `id` joins it with `responses_frame`.

    Args:
        folder: Folder of an evaluation.

    Returns:
        P rows of `id` and a float64 column per metric, NaN where it is undefined for the prompt.

    Raises:
        DataError: No finished evaluation, or a broken one.
    """
    from pandas import DataFrame

    metrics = read_prompt_metrics(Path(folder) / "prompt_metrics.jsonl")
    frame = DataFrame(list(metrics.values()), dtype="float64")
    frame.insert(0, "id", list(metrics))
    return frame


def write_parquet(folder: str | Path) -> None:
    """Writes both tables of the folder of an evaluation into it, as responses.parquet and prompt_metrics.parquet."""
    for name, frame in zip(PARQUET, (responses_frame(folder), prompt_metrics_frame(folder)), strict=True):
        write_bytes(Path(folder) / name, frame.to_parquet(engine="pyarrow", index=False))
