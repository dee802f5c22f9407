"""Everything that a run is told. The command line is made from this class: a field's docstring is its help."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import registry
from ..names import check, unknown
from . import choices


@dataclass(frozen=True)
class Settings:
    """What to train, on what, and how.

    Raises:
        ValueError: a value is out of its range, or a name is not known; the message has the value and what would do.
        TypeError: a value has the wrong type.

    Example:
        >>> from nnkernels.train import Settings
        >>> settings = Settings(network="cnn", activation="mish", epochs=3)
        >>> Settings.from_dict(settings.to_dict()) == settings
        True
    """

    network: str = "mlp"
    """The network, such as mlp, cnn, gru or transformer."""
    data: str = "digits"
    """The data set, such as digits, wine, mnist5k or pydoc."""
    activation: str | None = None
    """Any activation of the catalogue; by default the network's own."""
    width: int | None = None
    """Units, channels or features of the network; by default the network's own."""
    depth: int | None = None
    """Hidden layers, stages or blocks; by default the network's own."""
    dropout: float = 0.0
    """Probability of dropping a unit in training."""
    context: int = 128
    """Characters of one training text, or past values that a series is predicted from."""

    epochs: int = 20
    """How often every sample is seen."""
    batch_size: int = 64
    """Samples of one step of the optimiser."""
    accumulate: int = 1
    """Into how many pieces a batch is cut, to save memory; the mathematics stays the same."""
    workers: int = 0
    """Processes that load data; 0 loads within the training process."""
    loss: str | None = None
    """A loss of torch.nn, such as cross_entropy or smooth_l1; by default what suits the data."""
    metric: str | None = None
    """What held-out data is judged by, such as accuracy, f1, r2 or bits; by default what suits the data."""

    optimizer: str = "adamw"
    """An optimiser of torch.optim, such as sgd, adam, adamw or rmsprop."""
    lr: float = 3e-3
    """The greatest learning rate."""
    weight_decay: float = 0.01
    """Weight decay of matrices and kernels; biases and gains have none."""
    optimizer_arguments: dict[str, float] = field(default_factory=dict)
    """More arguments of the optimiser, such as: momentum 0.9."""
    schedule: str = "cosine"
    """The learning rate over time: constant, cosine, one_cycle, step or plateau."""
    warmup: float = 0.05
    """The share of all steps in which the learning rate rises; not for plateau."""
    clip: float | None = 1.0
    """The greatest norm of the gradient; None does not clip."""
    ema: float | None = None
    """Decay of a running mean of the weights, such as 0.99, with which held-out data is judged; None keeps none."""
    patience: int | None = None
    """Stops after so many evaluations without gain; None does not."""

    precision: str = "float32"
    """float32, bf16 or fp16 (autocast, fp16 with a gradient scaler), or float64."""
    compile: bool = False
    """Whether torch.compile makes the network faster."""
    recompute: bool = False
    """Whether backward makes again what norms and activations returned, in place of keeping it, to save memory."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    shard: str | None = None
    """fsdp: under torchrun each process holds its part of every weight (FSDP2); by default all of them (DDP)."""
    tensor_parallel: int = 1
    """Over how many of torchrun's processes the features of each feed-forward block are split."""
    seed: int = 0
    """Of weights, order and dropout."""
    deterministic: bool = False
    """Whether only deterministic algorithms may run; needed for bitwise equal resumption on a GPU."""

    out: Path | None = None
    """Folder of the run; by default the first free one of runs/DATA-NETWORK-1, -2, ..."""
    resume: bool = False
    """Whether to go on from the newest whole checkpoint in `out`, with the settings saved there."""
    log_every: int = 10
    """Steps between two lines of the log."""
    evaluate_every: int | None = None
    """Steps between two evaluations; by default once an epoch."""
    save_every: int | None = None
    """Steps between two checkpoints, beside the one of each evaluation."""
    keep: int = 3
    """How many checkpoints are kept, beside the best."""
    progress: bool = True
    """Whether to show a progress bar."""
    tensorboard: bool = True
    """Whether to write TensorBoard's files."""
    picture: bool = True
    """Whether to draw the curves at the end, in curves.png."""
    profile: bool = False
    """Whether to write a torch.profiler trace of a few steps to trace.json."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for one in dataclasses.fields(self):
            object.__setattr__(self, one.name, _typed(one.name, getattr(self, one.name), hints[one.name]))
        for name, least, what in _LEAST:
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} has to be at least {least}, {what}; got {value}")
        for name in ("lr", "clip"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} has to be greater than 0, got {value}")
        for name in ("dropout", "warmup", "ema"):
            if (value := getattr(self, name)) is not None and not 0 <= value < 1:
                raise ValueError(f"{name} has to be at least 0 and less than 1, got {value}")
        check("network", self.network, choices.NETWORKS)
        check("data", self.data, (*choices.DATA, choices.OWN))
        check("optimizer", self.optimizer, choices.OPTIMIZERS)
        check("schedule", self.schedule, choices.SCHEDULES)
        check("precision", self.precision, choices.PRECISIONS)
        if self.shard is not None:
            check("way to shard", self.shard, choices.SHARDS)
        if self.recompute and (self.compile or self.shard is not None):
            other = "compile" if self.compile else f"shard={self.shard!r}"
            why = "a compiler decides itself what is kept" if self.compile else "a block's weights are gone by then"
            raise ValueError(f"recompute cannot be combined with {other}: {why}")
        if self.activation is not None:
            registry.activation(self.activation)
        if self.loss is not None:
            check("loss", self.loss, choices.LOSSES)
        if self.metric is not None:
            check("metric", self.metric, choices.METRICS)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in YAML and in a checkpoint."""
        return {
            key: str(value) if isinstance(value, Path) else value for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """The opposite of `to_dict`.

        Raises:
            ValueError: there is no setting of such a name.
        """
        known = [one.name for one in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise unknown("setting", name, known)
        return cls(**values)

    def save(self, path: Path) -> None:
        """Writes YAML, whole or not at all."""
        import yaml

        from .checkpoint import write_whole

        write_whole(path, yaml.safe_dump(self.to_dict(), sort_keys=False).encode())

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Reads YAML, in which any setting may be missing.

        Raises:
            ValueError: the file does not hold settings.
        """
        import yaml

        try:
            read = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not YAML: {error}") from error
        if not isinstance(read, dict | None):
            raise ValueError(
                f"{path} does not hold settings (lines such as `network: cnn`), but a {type(read).__name__}"
            )
        try:
            return cls.from_dict(read or {})
        except (ValueError, TypeError) as error:
            raise type(error)(f"{path}: {error}") from error


_LEAST = (
    ("width", 1, "a number of units"),
    ("depth", 1, "a number of layers"),
    ("context", 1, "a number of values"),
    ("epochs", 1, "a number of rounds"),
    ("batch_size", 1, "a number of samples"),
    ("accumulate", 1, "a number of pieces"),
    ("workers", 0, "a number of processes"),
    ("weight_decay", 0, "a rate"),
    ("patience", 1, "a number of evaluations"),
    ("tensor_parallel", 1, "a number of processes"),
    ("seed", 0, "a whole number"),
    ("log_every", 1, "a number of steps"),
    ("evaluate_every", 1, "a number of steps"),
    ("save_every", 1, "a number of steps"),
    ("keep", 1, "a number of checkpoints"),
)


def _typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as the field has it; whole numbers serve as floats, and texts as paths."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = (one for one in typing.get_args(hint) if one is not types.NoneType)
    plain = typing.get_origin(hint) or hint
    if plain is Path and isinstance(value, str):
        return Path(value)
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if plain is float and isinstance(value, str):  # YAML 1.1 reads 3e-3 as a text
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        raise TypeError(f"{name} has to be of type {plain.__name__}, got {value!r}")
    return value
