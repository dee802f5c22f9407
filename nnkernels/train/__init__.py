"""A trainer that loses nothing.

Example:
    >>> from nnkernels.train import Settings, Trainer
    >>> trainer = Trainer(Settings(network="mlp", data="wine", activation="mish", epochs=2))
    >>> trainer.total
    6
"""

from .checkpoint import CheckpointError, Checkpoints
from .data import Data, Problem
from .finite import NotFinite
from .locking import InUse
from .processes import Processes
from .settings import Settings
from .trainer import Evaluation, Result, Trainer

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
