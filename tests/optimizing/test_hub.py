"""The folder of which Hugging Face's kernel-builder makes a kernel: complete, and of our own layers."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hub_kernel as hub
import pytest
import torch
from torch import Tensor

from nnkernels.integrations.transformers import LAYERS

NAME = "_nnkernels_cuda_0123abc"  # as which `kernels` imports one version


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub.assemble(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def package(folder: Path) -> Any:
    """The kernel, imported as `kernels` does: from a file, under a name of its own, beside this very package."""
    spec = importlib.util.spec_from_file_location(NAME, folder / "torch-ext/nnkernels/__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    yield module
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]


def test_the_build_is_described(folder):
    tomllib = pytest.importorskip("tomllib")
    build = tomllib.loads((folder / "build.toml").read_text())
    project = tomllib.loads((hub.ROOT / "pyproject.toml").read_text())["project"]
    general = build["general"]
    assert general["name"] == hub.PACKAGE.name and general["license"] == project["license"]
    assert set(general["backends"]) == {"cpu", "cuda", "rocm"}
    files = [file for file in (folder / "torch-ext").rglob("*") if file.is_file()]
    assert {file.suffix[1:] for file in files} <= set(build["torch-noarch"]["pyext"])
    assert (folder / "LICENSE").is_file() and (folder / "flake.nix").is_file()


def test_nothing_is_copied_that_nothing_needs(folder):
    parts = {path.name for path in (folder / "torch-ext/nnkernels").iterdir()}
    assert {"functional", "triton", "reference", "crossovers.json"} <= parts
    assert not {"train", "networks", "commands", "gallery", "_lib", "cli.py"} & parts


def test_it_imports_alone(folder):
    """Without a module of the package that it was copied from, nor a library that it does not declare."""
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location({NAME!r}, {str(folder / "torch-ext/nnkernels/__init__.py")!r})
module = sys.modules[{NAME!r}] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(sorted(module.layers.__all__))
print(sorted({{"nnkernels", "transformers", "timm", "torchvision", "kernels"}} & set(sys.modules)))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=True).stdout
    assert told.splitlines() == [str(sorted(LAYERS)), "[]"]


def called(layer: type[torch.nn.Module], module: Any, *inputs: Tensor) -> list[Tensor]:
    """The value of a layer's forward, bound to `module`, and the gradients of what it is given."""
    given = [tensor.detach().requires_grad_() for tensor in inputs]
    y = layer.forward(module, *given)
    return [y, *torch.autograd.grad(y.square().sum(), given)]


def module_for(name: str) -> tuple[Any, list[Tensor]]:
    """What the layer called `name` finds in the place of itself, and what it is called with."""
    x = torch.linspace(-6, 6, 64).view(4, 16)
    if not name.startswith("RMSNorm"):
        return SimpleNamespace(), [x]
    module = SimpleNamespace(weight=torch.linspace(0.5, 2, 16), variance_epsilon=1e-6, activation="silu")
    return module, [x, x.flip(0)][: 1 + (name == "RMSNormGated")]


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_ours(package, name):
    theirs = getattr(package.layers, name)
    module, inputs = module_for(name)
    assert theirs.__module__.partition(".")[0] == NAME and theirs is not LAYERS[name]
    for mine, other in zip(called(LAYERS[name], module, *inputs), called(theirs, module, *inputs), strict=True):
        torch.testing.assert_close(other, mine)


def test_layers_compile_whole(package):
    torch._dynamo.reset()
    for name in ("SiLU", "RMSNormGated"):
        module, inputs = module_for(name)
        forward = getattr(package.layers, name).forward
        compiled = torch.compile(lambda *given, f=forward, m=module: f(m, *given), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*inputs), forward(module, *inputs))


def test_operators_have_a_namespace_of_their_own(package):
    assert package.names.PACKAGE == NAME
    ours = importlib.import_module(f"{NAME}.autograd.fused_ops")
    assert ours.bias_act._qualname.startswith(f"{NAME}::")


def test_kernels_takes_it(folder, tmp_path):
    pytest.importorskip("kernels.layer")  # not the folder of tests that is called so
    import kernels

    built = tmp_path / "build" / ("torch-cuda" if torch.version.cuda else "torch-cpu")
    shutil.copytree(folder / "torch-ext/nnkernels", built)
    metadata = {"name": "nnkernels", "id": NAME + "f", "version": 1, "license": "Apache-2.0", "python-depends": []}
    kind = built.name.removeprefix("torch-")
    (built / "metadata.json").write_text(json.dumps(metadata | {"backend": {"type": kind}}))
    assert kernels._rust.Build.open(folder).general is not None

    @kernels.use_kernel_forward_from_hub("SiLU")
    class Activation(torch.nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            return torch.nn.functional.silu(input)

    model, x = torch.nn.Sequential(Activation()), torch.linspace(-6, 6, 64)
    repository = kernels.LocalLayerRepository(tmp_path, layer_name="SiLU")
    with kernels.use_kernel_mapping({"SiLU": {"cpu": repository}}):
        model = kernels.kernelize(model, mode=kernels.Mode.TRAINING | kernels.Mode.TORCH_COMPILE, device="cpu")
    assert model[0].forward.__func__.__module__.startswith(NAME)
    torch.testing.assert_close(model(x), torch.nn.functional.silu(x))


def test_a_full_folder_is_left_alone(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(FileExistsError, match=re.escape(str(tmp_path))):
        hub.assemble(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]
