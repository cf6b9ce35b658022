"""Diversity Quality Optimization: post-train language models that stay diverse.

`import dqo` loads neither torch nor a training host; public names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dqo._version import __version__

if TYPE_CHECKING:
    from dqo.integrations.trl import (
        DQOConfig,
        DQOPPOConfig,
        DQOPPOTrainer,
        DQORLOOConfig,
        DQORLOOTrainer,
        DQOTrainer,
    )
    from dqo.rewards import DiversityReward

__all__ = [
    "DQOConfig",
    "DQOPPOConfig",
    "DQOPPOTrainer",
    "DQORLOOConfig",
    "DQORLOOTrainer",
    "DQOTrainer",
    "DiversityReward",
    "__version__",
]

_HOMES = dict.fromkeys(set(__all__) - {"__version__"}, "dqo.integrations.trl") | {"DiversityReward": "dqo.rewards"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dqo' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
