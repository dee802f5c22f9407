"""A trainer that loses nothing.

Example:
    >>> from nnkernels.train import Settings, Trainer
    >>> trainer = Trainer(Settings(network="mlp", data="wine", activation="mish", epochs=2))
    >>> trainer.total
    6
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoint import CheckpointError, Checkpoints
    from .data import Data, Problem
    from .divergence import NotFinite
    from .locking import InUse
    from .processes import Processes
    from .settings import Settings
    from .trainer import Evaluation, Result, Trainer
else:
    from ..lazy import attributes

    __getattr__, __dir__ = attributes(
        __name__,
        {
            "CheckpointError": "checkpoint",
            "Checkpoints": "checkpoint",
            "Data": "data",
            "Evaluation": "trainer",
            "InUse": "locking",
            "NotFinite": "divergence",
            "Problem": "data",
            "Processes": "processes",
            "Result": "trainer",
            "Settings": "settings",
            "Trainer": "trainer",
        },
    )

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Data",
    "Evaluation",
    "InUse",
    "NotFinite",
    "Problem",
    "Processes",
    "Result",
    "Settings",
    "Trainer",
]
