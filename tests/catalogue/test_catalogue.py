"""The four rows of each activation, and everything that is derived from the first of them."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import re
from pathlib import Path

import pytest
import torch

import nnkernels
import nnkernels.functional as F
from nnkernels import accuracy, dispatch, native, nn, reference, registry
from nnkernels.catalogue.elementwise import SELU_ALPHA, SELU_SCALE
from nnkernels.registry import Activation, catalogue

ROOT = Path(__file__).parents[2]

NAMES = {row.name for row in catalogue(Activation)}


def test_the_four_sets_of_names_agree():
    names = NAMES | {registry.IDENTITY.name}
    assert set(reference.FORMULAS) == names
    if importlib.util.find_spec("triton"):
        from nnkernels.triton.activations import FORMULAS

        assert set(FORMULAS) == names
    if native.activation_names():
        assert set(native.activation_names()) == names


def test_every_row_is_told_in_full(row):
    for told in (row.formula, row.derivative, row.range, row.source, row.good_for, row.drawback):
        assert told.strip()
    assert any(character.isdigit() for character in row.source) or "Torch7" in row.source


def test_public_functions_and_modules_are_torchs_and_ours():
    assert set(F.__all__) >= NAMES
    assert {row.module for row in catalogue(Activation)} <= set(nn.__all__)
    theirs = {"Sigmoid", "Tanh", "ReLU", "ReLU6", "LeakyReLU", "ELU", "CELU", "SELU", "SiLU", "GELU", "Hardsigmoid"}
    theirs |= {"Hardswish", "Hardtanh", "Mish", "Softplus", "Softsign", "LogSigmoid", "Threshold", "Softshrink"}
    theirs |= {"Hardshrink", "Tanhshrink"}
    for name in theirs:
        assert issubclass(getattr(nn, name), getattr(torch.nn, name))


@pytest.mark.parametrize("name", [row.name for row in catalogue(Activation) if hasattr(torch.nn.functional, row.name)])
def test_signatures_are_torchs(name):
    mine = inspect.signature(getattr(F, name))
    try:
        theirs = inspect.signature(getattr(torch.nn.functional, name))
    except ValueError:
        pytest.skip("torch's function is a builtin without a signature")
    assert list(mine.parameters) == list(theirs.parameters)
    for parameter in theirs.parameters:
        assert mine.parameters[parameter].default == theirs.parameters[parameter].default
        assert mine.parameters[parameter].kind == theirs.parameters[parameter].kind


def test_derivative_at_the_output_is_that_at_the_input_where_the_row_says_so():
    x = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    for row in catalogue(Activation):
        for a, b in ((0.5, 0.25), (-0.5, 1.5), (0.0, 0.0), (2.0, 2.0)):
            if row.keeps_output(a, b) and (a < b or row.name != "hardtanh"):
                formula = reference.FORMULAS[row.name]
                slope = formula.d1(x, a, b)
                assert torch.equal(formula.d1(formula.value(x, a, b), a, b), slope), (row.name, a, b)
                assert not formula.d2(x, a, b).any()


def test_the_rows_that_mask_have_pieces(row):
    a, b = accuracy.constants_of(row)
    x = torch.linspace(-9, 9, 1801, dtype=torch.float64)
    reaches_zero = bool((reference.FORMULAS[row.name].d1(x, a, b) == 0).sum() > 10)
    assert row.masks == reaches_zero


def test_the_derivative_follows_from_the_output_where_the_row_says_so(row):
    formula = reference.FORMULAS[row.name]
    assert hasattr(formula, "from_output") == row.output_tells
    if row.output_tells:
        a, b = accuracy.constants_of(row)
        x = torch.linspace(-4, 4, 801, dtype=torch.float64)
        found = formula.from_output(torch.full_like(x, 3.0), formula.value(x, a, b), a)
        torch.testing.assert_close(found, 3 * formula.d1(x, a, b), rtol=1e-11, atol=0)


def test_selus_constants_are_the_same_in_python_and_in_cpp():
    told = (ROOT / "csrc/smooth.h").read_text()
    (alpha,) = re.findall(r"double alpha = ([\d.]+)", told)
    (scale,) = re.findall(r"scale = ([\d.]+);", told)
    assert (float(alpha), float(scale)) == (SELU_ALPHA, SELU_SCALE)


PUBLIC = [nnkernels, registry, dispatch, native, F.elementwise, nn.elementwise]


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_run(module):
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(verbose=False)
    public = {name: getattr(module, name) for name in getattr(module, "__all__", dir(module)) if name[0] != "_"}
    for name, item in public.items():
        if getattr(item, "__module__", None) == module.__name__:
            for test in finder.find(item, name, globs={}):
                runner.run(test)
    assert runner.failures == 0


def test_every_public_function_has_an_example():
    for name in F.__all__:
        function = getattr(F, name)
        if not name.endswith("_"):
            assert ">>>" in function.__doc__ and "Source" in function.__doc__
