"""Networks that fit themselves: scikit-learn's own checks, and what a module promises."""

from __future__ import annotations

import copy
import importlib
import pkgutil
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from nnkernels import networks
from nnkernels.networks.estimating import Classifier, Estimator, Regressor

for one in pkgutil.iter_modules(networks.__path__):
    importlib.import_module(f"nnkernels.networks.{one.name}")


def below(kind: type) -> list[type]:
    return [found for one in kind.__subclasses__() for found in (one, *below(one))]


ESTIMATORS = sorted(
    {one for one in below(Estimator) if one not in (Classifier, Regressor) and not one.__name__.startswith("_")},
    key=lambda one: one.__name__,
)
ATTRIBUTE = {"check_no_attributes_set_in_init": "a torch module has attributes of its own"}


@pytest.fixture(params=ESTIMATORS, ids=lambda one: one.__name__)
def estimator(request):
    return request.param()


def fitted(estimator: Estimator) -> tuple[Estimator, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(60, 5))
    y = x[:, 0] + x[:, 1] if isinstance(estimator, Regressor) else np.where(x[:, 0] > 0, "high", "low")
    if not isinstance(estimator, Classifier | Regressor):
        y = None
    return estimator.fit(x, y), x


def test_scikit_learns_checks_pass(estimator):
    excused = {**ATTRIBUTE, **estimator.excused_checks}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, expected_failed_checks=excused, on_skip=None, on_fail=None)
    failed = {one["check_name"]: one["exception"] for one in results if one["status"] == "failed"}
    assert len(results) > 30 and not failed


def test_what_was_learned_is_in_the_state(estimator, tmp_path):
    made, x = fitted(estimator)
    torch.save(made.state_dict(), tmp_path / "state.pt")
    other = clone(estimator)
    with pytest.raises(NotFittedError):
        other.predict(x)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert np.array_equal(other.predict(x), made.predict(x))
    assert np.array_equal(copy.deepcopy(made).predict(x), made.predict(x))


def test_a_batch_is_of_any_size_and_compiles(estimator):
    made, x = fitted(estimator)
    whole = made(torch.from_numpy(x))
    if "check_methods_subset_invariance" not in made.excused_checks:
        torch.testing.assert_close(torch.cat([made(one) for one in torch.from_numpy(x).split(7)]), whole)
    torch.testing.assert_close(torch.compile(made, backend="eager", fullgraph=True)(torch.from_numpy(x)), whole)


def test_a_wrong_shape_is_answered_with_the_right_one(estimator):
    made, x = fitted(estimator)
    with pytest.raises(ValueError, match=r"\(samples, features\), got \(60, 5, 1\)"):
        made.fit(x[..., None], None)
    with pytest.raises(ValueError, match=r"4 features.*5 features"):
        made.predict(x[:, :4])


def test_it_stands_in_a_pipeline():
    from nnkernels.networks.perceptron import Perceptron

    x = np.random.default_rng(0).normal(size=(200, 3)) * [1, 100, 0.01]
    y = x[:, 1] > 0
    assert make_pipeline(StandardScaler(), Perceptron()).fit(x, y).score(x, y) > 0.95
