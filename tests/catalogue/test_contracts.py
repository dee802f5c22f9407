"""Every backend's kernels fulfil the contract of their family, which the type checker sees, and a call at run time."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import nnkernels
from nnkernels import contracts, dispatch, native
from nnkernels.contracts.elementwise import Backend
from nnkernels.triton import TritonBackend

PACKAGE = Path(nnkernels.__file__).parent
CONTRACTS = {
    one.name: importlib.import_module(f"nnkernels.contracts.{one.name}")
    for one in pkgutil.iter_modules(contracts.__path__)
}
FAMILIES = {name: module.Kernels for name, module in CONTRACTS.items() if hasattr(module, "Kernels")}
KERNELS = [
    (folder, family)
    for folder in dispatch.with_families()
    for family in FAMILIES
    if (PACKAGE / folder / f"{family}.py").exists()
]  # fmt: skip


def functions(protocol: type) -> dict[str, list[inspect.Parameter]]:
    """What a protocol asks for, without the receiver."""
    found = {name: item for name, item in vars(protocol).items() if inspect.isfunction(item) and name[0] != "_"}
    return {name: list(inspect.signature(item).parameters.values())[1:] for name, item in found.items()}


def shape(parameters: list[inspect.Parameter]) -> list[tuple[str, object, object]]:
    return [(one.name, one.kind, one.default) for one in parameters]


@pytest.mark.parametrize("folder, family", KERNELS, ids=lambda name: name)
def test_signatures_are_those_of_the_contract(folder, family):
    if folder == "triton":
        pytest.importorskip("triton")
    module = importlib.import_module(f"nnkernels.{folder}.{family}")
    wanted = functions(FAMILIES[family])
    assert wanted
    for name, parameters in wanted.items():
        mine = list(inspect.signature(getattr(module, name)).parameters.values())
        assert shape(mine) == shape(parameters), name


@pytest.mark.parametrize("folder, family", KERNELS, ids=lambda name: name)
def test_the_type_checker_is_told_of_the_module(folder, family):
    told = inspect.getsource(CONTRACTS[family]).partition("if TYPE_CHECKING:")[2]
    assert f"from ..{folder} import {family} as {folder}\n" in told
    (listed,) = re.findall(r"_: tuple\[Kernels, \.\.\.\] = \((.*)\)", told)
    assert folder in listed.split(", ")


@pytest.mark.parametrize(
    "backend", [type(dispatch.REFERENCE), native.Native, TritonBackend], ids=lambda one: one.__name__
)
def test_elementwise_backends_have_the_signatures_of_the_contract(backend):
    mine = functions(backend)
    for name, parameters in functions(Backend).items():
        assert shape(mine[name]) == shape(parameters), name


def test_every_family_of_kernels_has_a_contract():
    assert {path.stem for path in (PACKAGE / "cpu").glob("*.py")} - {"__init__"} <= FAMILIES.keys()
    assert all(("reference", family) in KERNELS for family in FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_function_of_a_contract_says_what_it_computes(family):
    assert all(getattr(FAMILIES[family], name).__doc__ for name in functions(FAMILIES[family]))
