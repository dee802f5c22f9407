"""What networks that are not trained by gradients share: scikit-learn's `fit`, `predict` and `score` on a torch module.

An estimator's options are its constructor's arguments, kept under their names; what it learns are buffers, so that it
has a `state_dict`, moves between devices and is called on tensors as any module. scikit-learn itself is not needed.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor


class Estimator(torch.nn.Module):
    """Learns from arrays or tensors of the shape (samples, features).

    A subclass writes `learn(x, y)`, which keeps what it finds with `keep(name, tensor)`, and `forward(x)`.

    Attributes:
        n_features_in_: features of the samples it has learned from.
    """

    _kind: str | None = None
    """What scikit-learn calls its kind: "classifier", "regressor", "transformer" or None."""

    excused_checks: ClassVar[dict[str, str]] = {}
    """Of scikit-learn's checks of estimators those that its mathematics cannot pass, and why."""

    n_features_in_: int

    def __init__(self) -> None:  # whose arguments are the options: torch's would be any
        super().__init__()

    def learn(self, x: Tensor, y: Any) -> None:
        """Learns from `x` (samples, features), floating, and what `encoded` made of the targets."""
        raise NotImplementedError

    def keep(self, name: str, value: Tensor) -> None:
        """Keeps a tensor that was learned, as the buffer `name`."""
        self.register_buffer(name, value.detach())

    def fit(self, x: Any, y: Any = None) -> Estimator:
        """Learns anew, and returns itself.

        Args:
            x: `(samples, features)`, an array or a tensor of finite numbers.
            y: `(samples,)` or `(samples, outputs)`, unless it learns without targets.

        Raises:
            ValueError: the shapes do not fit, there are no samples, or a number is not finite.
        """
        samples = self.checked(x)
        with torch.no_grad():
            targets = self.encoded(samples, y)
            self.n_features_in_ = samples.shape[1]
            self.learn(samples, targets)
        return self

    def encoded(self, x: Tensor, y: Any) -> Any:
        """The targets as `learn` takes them."""
        return None

    def predict(self, x: Any) -> np.ndarray:
        """The network's outputs for `(samples, features)`, as an array."""
        return self.outputs(x).numpy()

    @torch.no_grad()
    def outputs(self, x: Any) -> Tensor:
        """`forward` of an array or a tensor, on the CPU; raises what `ready` raises."""
        return self(self.ready(x)).cpu()

    def ready(self, x: Any) -> Tensor:
        """`x` as `forward` takes it: a tensor of the type, and on the device, of what was learned.

        Raises:
            NotFittedError: it has not learned yet, a ValueError and an AttributeError.
            ValueError: the samples have another number of features than those it learned from.
        """
        if not hasattr(self, "n_features_in_"):
            unfitted = _theirs("NotFittedError", ValueError, AttributeError)
            raise unfitted(f"This {type(self).__name__} instance is not fitted yet: call 'fit' before using it")
        samples = self.checked(x)
        if samples.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {samples.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        learned = next(self.buffers())
        return samples.to(learned.device, learned.dtype)

    def checked(self, x: Any) -> Tensor:
        """`x` as a floating tensor of the shape (samples, features).

        Raises:
            ValueError: it has another shape, is empty, or holds a number that is not finite.
            TypeError: it holds something else than numbers, or is sparse.
        """
        samples = x if isinstance(x, Tensor) else torch.from_numpy(_numbers(self, x))
        if samples.is_complex():
            raise ValueError(f"Complex data not supported: {type(self).__name__} takes real numbers")
        if samples.ndim != 2:
            raise ValueError(
                f"{type(self).__name__} takes the shape (samples, features), got {tuple(samples.shape)}. "
                "Reshape your data: x.reshape(len(x), -1) makes each sample flat"
            )
        for size, what in zip(samples.shape, ("sample", "feature"), strict=True):
            if size == 0:
                raise ValueError(
                    f"0 {what}(s) (shape={tuple(samples.shape)}) while a minimum of 1 is required by "
                    f"{type(self).__name__}"
                )
        if not samples.is_floating_point():
            samples = samples.to(torch.get_default_dtype())
        if not bool(samples.isfinite().all()):
            found = "NaN" if bool(samples.isnan().any()) else "infinity"
            raise ValueError(f"Input X contains {found}; {type(self).__name__} takes finite numbers")
        return samples

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **options: Any) -> Estimator:
        """Changes arguments of the constructor, for the next `fit`.

        Raises:
            ValueError: there is no such argument.
        """
        known = self.get_params()
        for name, value in options.items():
            if name not in known:
                raise ValueError(
                    f"Invalid parameter {name!r} for estimator {type(self).__name__}; it has: {', '.join(known)}"
                )
            setattr(self, name, value)
        return self

    def generator(self, x: Tensor) -> torch.Generator:
        """Random numbers of the option `seed`, for what is drawn on the CPU."""
        return torch.Generator().manual_seed(int(getattr(self, "seed", 0) or 0))

    def get_extra_state(self) -> dict[str, Any]:
        """What a `state_dict` holds beside tensors."""
        return {"features": getattr(self, "n_features_in_", None)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state["features"] is not None:
            self.n_features_in_ = state["features"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """A new estimator has no buffers yet: those of the state are made first, in its shapes."""
        own = {name.removeprefix(prefix): one for name, one in state_dict.items() if name.startswith(prefix)}
        for name, value in own.items():
            if isinstance(value, Tensor) and "." not in name and name not in self._parameters:
                self.register_buffer(name, torch.empty_like(value))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, RegressorTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=self._kind,
            target_tags=TargetTags(
                required=self._kind in ("classifier", "regressor"), multi_output=self._kind == "regressor"
            ),
            classifier_tags=ClassifierTags() if self._kind == "classifier" else None,
            regressor_tags=RegressorTags() if self._kind == "regressor" else None,
            transformer_tags=TransformerTags() if self._kind == "transformer" else None,
        )


class Classifier(Estimator):
    """An estimator of classes: `learn` gets their numbers, `forward` gives a score of each, `(samples, classes)`.

    Attributes:
        classes_: the labels, sorted.
    """

    _kind = "classifier"
    _estimator_type = "classifier"
    classes_: np.ndarray

    def encoded(self, x: Tensor, y: Any) -> Tensor:
        """The number of each sample's class, `(samples,)`.

        Raises:
            ValueError: the labels are none, of another number than the samples, or of one class only.
        """
        labels = _targets(self, x, y)
        if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.round(labels)).all()):
            raise ValueError(f"Unknown label type: {type(self).__name__} takes classes, got continuous numbers or NaN")
        if labels.ndim == 2 and labels.shape[1] == 1:
            told = f"A column-vector y was passed when a 1d array was expected: {type(self).__name__} takes (samples,)"
            warnings.warn(told, _theirs("DataConversionWarning", UserWarning), stacklevel=3)
        self.classes_, numbers = np.unique(labels.ravel(), return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} can't train when only one class is present: the labels are all "
                f"{self.classes_[0]!r}"
            )
        return torch.from_numpy(numbers.reshape(-1)).to(x.device)

    def predict(self, x: Any) -> np.ndarray:
        """The likeliest label of each sample, `(samples,)`."""
        return self.classes_[self.outputs(x).argmax(1).numpy()] if hasattr(self, "classes_") else super().predict(x)

    def score(self, x: Any, y: Any) -> float:
        """The share of samples whose label is predicted."""
        return float(np.mean(self.predict(x) == np.asarray(y).ravel()))

    def get_extra_state(self) -> dict[str, Any]:
        labels = getattr(self, "classes_", None)
        return {**super().get_extra_state(), "labels": None if labels is None else labels.tolist()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        if state["labels"] is not None:
            self.classes_ = np.array(state["labels"])


class Regressor(Estimator):
    """An estimator of values: `learn` gets `(samples, outputs)`, `forward` gives the same."""

    _kind = "regressor"
    _estimator_type = "regressor"
    _flat: bool = False

    def encoded(self, x: Tensor, y: Any) -> Tensor:
        """The values, `(samples, outputs)`."""
        targets = _targets(self, x, y)
        if not np.isfinite(targets.astype(float)).all():
            raise ValueError(f"Input y contains NaN or infinity; {type(self).__name__} takes finite numbers")
        self._flat = targets.ndim == 1
        return torch.from_numpy(targets.reshape(len(targets), -1)).to(x)

    def predict(self, x: Any) -> np.ndarray:
        """The values, `(samples, outputs)`, or `(samples,)` if it learned such."""
        values = super().predict(x)
        return values[:, 0] if self._flat else values

    def score(self, x: Any, y: Any) -> float:
        """R2, the share of the variance that is explained; the mean over outputs."""
        wanted = np.asarray(y, dtype=float).reshape(len(x), -1)
        apart = ((wanted - self.predict(x).reshape(wanted.shape)) ** 2).sum(0)
        return float(np.mean(1 - apart / ((wanted - wanted.mean(0)) ** 2).sum(0)))

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "flat": self._flat}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self._flat = state["flat"]


def _numbers(who: object, given: Any) -> np.ndarray:
    if hasattr(given, "toarray"):
        raise TypeError(f"Sparse data was passed to {type(who).__name__}, which takes dense: use X.toarray()")
    array = np.asarray(given)
    if array.dtype.kind == "O":
        array = array.astype(np.float64)
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{type(who).__name__} takes numbers, got an array of {array.dtype}")
    if array.dtype == np.float16 or (array.dtype.itemsize > 8 and array.dtype.kind == "f"):
        array = array.astype(np.float64)
    return np.array(array if array.dtype.kind in "fc" else array.astype(np.float64), order="C")


def _targets(who: Estimator, x: Tensor, y: Any) -> np.ndarray:
    if y is None:
        raise ValueError(f"{type(who).__name__} requires y to be passed, but the target y is None")
    targets = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if targets.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: the targets of {type(who).__name__} are real")
    if targets.dtype.kind == "O" and not all(isinstance(one, str) for one in targets.ravel()):
        targets = targets.astype(np.float64)
    if len(targets) != len(x):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {len(x)} of X, {len(targets)} of y"
        )
    return targets


def _theirs(name: str, *others: type) -> Any:
    """scikit-learn's own exception where it is installed, so that its users may catch it; else one of that name."""
    try:
        from sklearn import exceptions
    except ImportError:
        return type(name, others, {})
    return getattr(exceptions, name)
