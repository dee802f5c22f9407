"""What holds for every row that is not stateless and elementwise, from one sample call of each."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch

import nnkernels
import nnkernels.functional as F
from nnkernels import accuracy, dispatch, nn
from nnkernels.commands import check
from nnkernels.registry import Activation, Fused, Random, activations, catalogue, row_called
from nnkernels.samples import sample_of

ROWS = [row for row in catalogue() if not isinstance(row, Activation)]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")


@pytest.fixture(params=ROWS, ids=lambda row: row.name)
def row(request):
    return request.param


@pytest.fixture
def sample(row):
    return sample_of(row)


def leaves(sample, dtype=torch.float64, device=DEVICE):
    return tuple(tensor.requires_grad_() for tensor in sample.inputs(dtype, device))


def test_every_row_has_a_sample_a_function_and_a_module(row):
    assert row.example is not None
    assert row.name in F.__all__ and (row.name in activations()) == (not isinstance(row, Fused))
    assert ">>>" in getattr(F, row.name).__doc__ and "Source" in getattr(F, row.name).__doc__
    assert row.module in nn.__all__ and ">>>" in getattr(nn, row.module).__doc__
    for told in (row.formula, row.derivative, row.range, row.source, row.good_for, row.drawback):
        assert told.strip()


def test_a_fused_form_is_no_activation_but_a_row():
    for form in catalogue(Fused):
        assert row_called(form.name) is form and pickle.loads(pickle.dumps(form)) is form
        with pytest.raises(ValueError, match=form.name):
            nnkernels.activation(form.name)


@pytest.mark.parametrize("name", dispatch.with_families())
def test_check_passes(row, name):
    found = dispatch.named(name)
    reason = found if isinstance(found, str) else found.unavailable(torch.device(check.device_for(name)))
    if reason or not check.serves(name, row):
        pytest.skip(reason or f"{name} has no {row.name}")
    result = check.check(row, name)
    assert result["ok"], result


def test_cuda_by_name_is_refused_in_one_sentence(row, sample):
    inputs = sample.inputs(torch.float32, DEVICE)
    with nnkernels.backend("cuda"), pytest.raises(RuntimeError, match="cuda"):
        # Outside training draws are activations that CUDA has.
        getattr(F, row.name)(*inputs, training=True) if isinstance(row, Random) else sample.call(*inputs)


def test_other_strides_change_nothing(sample):
    plain = leaves(sample)
    other = tuple(tensor.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for tensor in plain)
    y = sample.call(*plain)
    grad = torch.randn_like(y).transpose(0, -1).contiguous().transpose(0, -1)
    z = sample.call(*other)
    assert torch.allclose(y, z, rtol=1e-13)
    for mine, others in zip(torch.autograd.grad(y, plain, grad), torch.autograd.grad(z, other, grad), strict=True):
        assert torch.allclose(mine, others, rtol=1e-12, atol=1e-13)
    (constant,) = torch.autograd.grad(sample.call(*plain).sum(), plain[:1])  # a gradient of stride 0
    (ones,) = torch.autograd.grad(sample.call(*plain), plain[:1], torch.ones_like(y))
    assert torch.allclose(constant, ones, rtol=1e-13, atol=1e-15)


def test_compiled_it_gives_the_same(sample):
    torch._dynamo.reset()  # samples share one wrapper, of which few variants are compiled
    inputs = leaves(sample, torch.float32)
    compiled = torch.compile(sample.call, fullgraph=True, backend="aot_eager")
    y, z = sample.call(*inputs), compiled(*inputs)
    assert torch.allclose(y, z, rtol=1e-5, atol=1e-6)
    grad = torch.randn_like(y)
    for mine, others in zip(torch.autograd.grad(y, inputs, grad), torch.autograd.grad(z, inputs, grad), strict=True):
        assert torch.allclose(mine, others, rtol=1e-4, atol=1e-5)


def test_transforms(sample):
    x, *more = sample.inputs(torch.float64, DEVICE)
    batch = torch.stack([x, 0.5 * x + 0.01, -x])
    y = torch.func.vmap(lambda one: sample.call(one, *more))(batch)
    assert torch.allclose(y, torch.stack([sample.call(one, *more) for one in batch]))
    tangent = torch.cos(torch.arange(x.numel(), dtype=x.dtype, device=DEVICE)).view_as(x)
    _, along = torch.func.jvp(lambda one: sample.call(one, *more), (x,), (tangent,))
    forward = torch.func.jacfwd(lambda one: sample.call(one, *more))(x)
    backward = torch.func.jacrev(lambda one: sample.call(one, *more))(x)
    assert torch.allclose(forward, backward)
    assert torch.allclose(along.flatten(), forward.reshape(along.numel(), -1) @ tangent.flatten())


def test_checkpointing_and_a_second_backward(sample):
    inputs = leaves(sample)
    y = sample.call(*inputs)
    grad = torch.randn_like(y)
    first, second = (torch.autograd.grad(y, inputs, grad, retain_graph=True) for _ in range(2))
    kept = torch.utils.checkpoint.checkpoint(sample.call, *inputs, use_reentrant=False)
    for one, two, three in zip(first, second, torch.autograd.grad(kept, inputs, grad), strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)


def test_nothing_of_the_caller_is_written(sample):
    inputs = leaves(sample, torch.float32)
    before = [tensor.detach().clone() for tensor in inputs]
    y = sample.call(*inputs)
    grad = torch.randn_like(y)
    given = grad.clone()
    torch.autograd.grad(y, inputs, grad)
    assert torch.equal(grad, given)
    assert all(torch.equal(tensor, old) for tensor, old in zip(inputs, before, strict=True))


@pytest.mark.parametrize("dtype", accuracy.LIMITS, ids=lambda dtype: str(dtype)[6:])
def test_types_are_kept_and_nan_is_seen(sample, dtype):
    inputs = sample.inputs(dtype, DEVICE)
    assert sample.call(*inputs).dtype == dtype
    inputs[0].view(-1)[0] = torch.nan
    assert sample.call(*inputs).isnan().any()


@pytest.mark.parametrize("name", sorted({row.module for row in ROWS}))
def test_modules_survive_pickling_and_copying(name):
    made = getattr(nn, name)
    needed = [
        one
        for one in inspect.signature(made).parameters.values()
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    module = made(*[4] * len(needed))  # counts of channels, features, segments
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(other) == repr(module)
        assert other.state_dict().keys() == module.state_dict().keys()
    if hasattr(torch.nn, name):
        assert isinstance(module, getattr(torch.nn, name))
