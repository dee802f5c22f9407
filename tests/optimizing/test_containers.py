"""A model whose containers were optimised gives to everybody who takes it apart what it gave before."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import GELU, BatchNorm1d, BatchNorm2d, Conv2d, Identity, Linear, ReLU, Sequential, Sigmoid, Tanh

from nnkernels import functional as F
from nnkernels import optimize, restore
from nnkernels.optimizing.adapting import is_adapted


def layers(channels=4):
    return [BatchNorm1d(channels), ReLU()]


class Slicing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Sequential(Linear(4, 4), *layers())

    def forward(self, x):
        return self.body[:2](x) - self.body(x)


class Indexing(Slicing):
    def forward(self, x):
        return self.body[1](self.body[0](x))


class Walking(Slicing):
    def forward(self, x):
        for layer in self.body:
            x = layer(x) + 1
        return x


class ByName(Slicing):
    def forward(self, x):
        return getattr(self, "body").get_submodule("1")(x)  # noqa: B009


class Alias(Slicing):
    """Also reachable in a list, which torch does not see."""

    def __init__(self):
        super().__init__()
        self.again = [self.body[1]]

    def forward(self, x):
        return self.body(x) + self.again[0](x)


def repeated():
    relu = ReLU()
    return Sequential(Linear(4, 4), relu, BatchNorm1d(4), relu, Sigmoid())


def block_used_twice():
    block = Sequential(Linear(4, 4), *layers())
    return Sequential(block, block)


def norm_used_again():
    norm = BatchNorm1d(4)
    return Sequential(Sequential(norm, ReLU()), norm)


def norm_in_two():
    norm = BatchNorm1d(4)
    return Sequential(Sequential(norm, ReLU()), Sequential(norm, Sigmoid()))


def forward_of_an_instance():
    given = Sequential(Linear(4, 4), *layers())
    original = given.forward
    given.forward = lambda x: original(x) + 1
    return given


@pytest.mark.parametrize(
    "build",
    [Slicing, Indexing, Walking, ByName, Alias, repeated, block_used_twice, norm_used_again, norm_in_two,
     forward_of_an_instance],
)  # fmt: skip
def test_whoever_takes_a_container_apart_gets_what_he_got(build):
    torch.manual_seed(0)
    given, x = build(), torch.randn(6, 4)
    state = copy.deepcopy(given.state_dict())
    expected = given(x)
    moved = copy.deepcopy(given.state_dict())
    given.load_state_dict(state)
    optimize(given, always=True, verbose=False)
    torch.testing.assert_close(given(x), expected)
    torch.testing.assert_close(given.state_dict(), moved)


def network():
    torch.manual_seed(0)
    return Sequential(Conv2d(3, 8, 3), BatchNorm2d(8), ReLU(inplace=True), Conv2d(8, 4, 3), BatchNorm2d(4), Sigmoid())


def optimized():
    given = network()
    optimize(given, always=True, verbose=False)
    return given


def test_slices_and_layers_are_what_they_were():
    given, plain, x = optimized().eval(), network().eval(), torch.randn(2, 3, 8, 8)
    for part in (slice(2), slice(1, 3), slice(3, None)):
        start = plain[: part.start or 0](x)
        torch.testing.assert_close(given[part](start), plain[part](start))
    torch.testing.assert_close(given[1](plain[0](x)), plain[1](plain[0](x)))


def hooked(given, calls):
    given[1].register_forward_hook(lambda module, args, output: calls.append(output.detach().clone()))
    return given


def test_a_hook_on_a_layer_sees_what_it_saw():
    x, calls = torch.randn(2, 3, 8, 8), []
    results = [hooked(given, calls)(x) for given in (network(), optimized())]
    torch.testing.assert_close(results[1], results[0])
    assert len(calls) == 2
    torch.testing.assert_close(calls[1], calls[0])


def frozen(norm):
    made = torch.nn.BatchNorm2d(norm.num_features).requires_grad_(False).eval()
    made.load_state_dict(norm.state_dict())
    return made


@pytest.mark.parametrize(
    "exchange",
    [
        lambda given: given.__setitem__(2, Identity()),
        lambda given: given.__setitem__(2, torch.nn.Tanh()),
        lambda given: given.__setitem__(1, Identity()),
        lambda given: given.__setitem__(1, frozen(given[1])),
        lambda given: given.append(torch.nn.ReLU()),
        lambda given: setattr(given[2], "forward", torch.tanh),
        lambda given: torch.nn.SyncBatchNorm.convert_sync_batchnorm(given.eval()),
    ],
)
def test_layers_that_are_exchanged_afterwards_count(exchange):
    x = torch.randn(2, 3, 8, 8)
    given, plain = optimized(), network()
    exchange(given), exchange(plain)
    torch.testing.assert_close(given(x), plain(x))
    torch.testing.assert_close(given.state_dict(), plain.state_dict())


def test_tools_that_look_for_batch_norms_find_them():
    given, plain = optimized().eval(), network().eval()
    assert [isinstance(one, torch.nn.BatchNorm2d) for one in given] == [
        isinstance(o, torch.nn.BatchNorm2d) for o in plain
    ]
    folded = [torch.nn.utils.fuse_conv_bn_eval(model[0], model[1]) for model in (given, plain)]
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(folded[0](x), folded[1](x))
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(given)
    assert [type(one).__name__ for one in converted] == [
        "Conv2d", "SyncBatchNorm", "ReLU", "Conv2d", "SyncBatchNorm", "Sigmoid"
    ]  # fmt: skip


def test_an_exception_leaves_the_model_as_it_was(monkeypatch):
    from nnkernels.optimizing import optimizing

    def refuse(*_):
        raise KeyboardInterrupt

    given = network()
    monkeypatch.setattr(optimizing, "Report", type("Report", (optimizing.Report,), {"__str__": refuse}))
    with pytest.raises(KeyboardInterrupt):
        optimize(given, always=True)
    assert not any(is_adapted(module) for module in given.modules())
    failing = Sequential(Linear(4, 4), *layers(), Linear(5, 4))
    with pytest.raises(RuntimeError, match="shape"):
        optimize(failing, torch.randn(3, 4))
    assert not any(is_adapted(module) for module in failing.modules())
    assert restore(given) is given


def test_a_linear_layer_and_its_activation_are_one_call(monkeypatch):
    model, x = Sequential(Linear(6, 9), GELU(), Linear(9, 5), ReLU(inplace=True), Linear(5, 3)), torch.randn(4, 6)
    before = model(x)
    before.sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    report = optimize(model, x, always=True, verbose=False)
    assert [row.shown.count("Linear(") for row in report.fused] == [2]
    seen = []
    linear_act = F.linear_act
    monkeypatch.setattr(F, "linear_act", lambda *given, **named: seen.append(given[3]) or linear_act(*given, **named))
    after = model(x)
    after.sum().backward()
    assert seen == ["gelu", "relu"]
    torch.testing.assert_close(after, before)
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], expected)


def test_a_linear_layer_that_is_watched_is_called():
    model, calls = Sequential(Linear(6, 9), GELU()), []
    optimize(model, torch.randn(4, 6), always=True, verbose=False)
    handle = model[0].register_forward_hook(lambda *given: calls.append(given))
    x = torch.randn(4, 6)
    y = model(x)
    handle.remove()
    assert len(calls) == 1
    torch.testing.assert_close(model(x), y)
    model[0] = torch.nn.utils.parametrizations.weight_norm(Linear(6, 9))
    torch.testing.assert_close(model(x), torch.nn.functional.gelu(model[0](x)))


@pytest.mark.parametrize(
    ("act", "change", "x"),
    [
        (Tanh, lambda layer: layer.to(torch.complex64), torch.randn(3, 6, dtype=torch.complex64)),
        (GELU, lambda layer: layer, torch.nested.nested_tensor([torch.randn(2, 6), torch.randn(3, 6)])),
    ],
)
def test_operands_that_ours_does_not_take_are_multiplied_by_torch(act, change, x):
    model = change(Sequential(Linear(6, 9), act()))
    expected = model(x)
    optimize(model, always=True, verbose=False)
    found = model(x)
    pairs = zip(found.unbind(), expected.unbind(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_a_sparse_weight_is_multiplied_by_torch():
    model, x = Sequential(Linear(6, 9), GELU()), torch.randn(3, 6)
    model[0].weight = torch.nn.Parameter(model[0].weight.detach().to_sparse_csr(), requires_grad=False)
    expected = model(x)
    optimize(model, always=True, verbose=False)
    torch.testing.assert_close(model(x), expected)


def test_types_that_differ_are_refused_by_torch():
    model = Sequential(Linear(6, 9), GELU())
    optimize(model, always=True, verbose=False)
    with pytest.raises(RuntimeError, match="same dtype"):
        model(torch.randn(3, 6, dtype=torch.float64))
