"""nnkernels.optimize fuses only what nobody but its container can reach, and changes a model wholly or not at all."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch.nn import BatchNorm1d, Linear, ModuleDict, ModuleList, ReLU, Sequential, Sigmoid

from nnkernels import optimize
from nnkernels.optimizing import recognition, swapping


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """What is timed, so that it takes no time."""
    monkeypatch.setitem(swapping._SIZES, "cpu", 2**12)


def layers(channels=4):
    return [BatchNorm1d(channels), ReLU()]


def fused(model):
    return sum("NormAct" in type(module).__name__ for module in model.modules())


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


class Deeper(Slicing):
    def __init__(self):
        super().__init__()
        self.body = Sequential(Linear(4, 4), Sequential(*layers()))

    def forward(self, x):
        return self.body(x) - self.body[1][0](x)


class Handing(Slicing):
    def forward(self, x):
        return run(self.body, x)


def run(layers, x):
    return x + list(layers)[1](x)


class ByName(Slicing):
    def forward(self, x):
        return getattr(self, "body").get_submodule("1")(x)  # noqa: B009


class Children(Slicing):
    def forward(self, x):
        for child in self.modules():
            x = child(x) if isinstance(child, BatchNorm1d) else x
        return x


class Helping(Slicing):
    @property
    def first(self):
        return self.body[1]

    def helped(self, x):
        return self.first(x)

    def forward(self, x):
        return self.helped(x)


class Extracting(Slicing):
    @torch.no_grad()
    def features(self, x):
        return self.body[:2](x)

    def forward(self, x):
        return self.body(x)


class Alias(Slicing):
    """Also reachable in a list, which torch does not see."""

    def __init__(self):
        super().__init__()
        self.again = [self.body[1]]

    def forward(self, x):
        return self.body(x) + self.again[0](x)


class Closing(Slicing):
    def __init__(self):
        super().__init__()
        norm = self.body[1]
        self.run = lambda x: norm(x)

    def forward(self, x):
        return self.body(x) + self.run(x)


class Partial(Slicing):
    def __init__(self):
        super().__init__()
        self.run = functools.partial(run, self.body)

    def forward(self, x):
        return self.body(x) + self.run(x)


class Registered(Slicing):
    def __init__(self):
        super().__init__()
        self.norm = self.body[1]

    def forward(self, x):
        return self.body(x) + self.norm(x)


class Rebound(Sequential):
    def forward(self, x):
        for layer in self[:-1]:
            x = layer(x)
        return x


class Early(Sequential):
    def early(self, x):
        return self[:2](x)


class Odd(Sequential):
    def __iter__(self):
        return reversed(list(super().__iter__()))


def shared_activation():
    relu = ReLU()
    return Sequential(Linear(4, 4), relu, BatchNorm1d(4), relu, Sigmoid())


def repeated_block():
    block = Sequential(BatchNorm1d(4), ReLU())
    return Sequential(block, Linear(4, 4), block)


def used_again():
    norm = BatchNorm1d(4)
    return Sequential(Sequential(norm, ReLU()), norm)


def in_two():
    norm, relu = layers()
    return Sequential(Sequential(norm, relu), Sequential(Linear(4, 4), norm, relu), Sequential(BatchNorm1d(4), relu))


def with_forward_of(index):
    model = Sequential(Linear(4, 4), *layers())
    module = model if index is None else model[index]
    before = module.forward
    module.forward = lambda x: before(x) + 1  # as accelerate sets it
    return model


def hooked(register, index=1):
    model = Sequential(Linear(4, 4), Sequential(*layers()))
    module = model if index is None else model[1] if index == 1 else model[1][index - 2]
    register(module)
    return model


def add_one(module, args, *rest):
    return (args[0] + 1,) if not rest else rest[-1] + 1


def takes_no_eps() -> bool:
    """Whether this torch normalises without an eps."""
    try:
        torch.nn.functional.batch_norm(torch.randn(4, 2), None, None, training=True, eps=0.0)
    except ValueError:
        return False
    return True


LEFT = [
    shared_activation, repeated_block, used_again, in_two, Slicing, Indexing, Walking, Deeper, Handing, ByName,
    Children, Helping, Extracting, Alias, Closing, Partial, Registered,
    lambda: Rebound(Linear(4, 4), *layers()), lambda: Early(Linear(4, 4), *layers()),
    lambda: Odd(*reversed([Linear(4, 4), *layers()])),
    *(functools.partial(with_forward_of, index) for index in (None, 1, 2)),
    *(functools.partial(hooked, lambda m: m.register_forward_hook(add_one), index) for index in (None, 1, 2, 3)),
    lambda: hooked(lambda m: m.register_forward_hook(lambda m, a, k, y: y + 1, with_kwargs=True), 2),
    lambda: hooked(lambda m: m.register_forward_pre_hook(add_one), 3),
    lambda: hooked(lambda m: m.register_full_backward_hook(lambda m, i, o: (2 * i[0],)), 2),
    lambda: hooked(lambda m: torch.nn.utils.parametrizations.weight_norm(m, dim=None), 2),
    lambda: torch.jit.trace(Sequential(*layers()).eval(), torch.zeros(2, 4)),
    lambda: Sequential(torch.jit.script(BatchNorm1d(4)), ReLU()),
    *([lambda: Sequential(torch.nn.BatchNorm1d(4, eps=0.0), ReLU())] if takes_no_eps() else []),
    lambda: torch.nn.SyncBatchNorm.convert_sync_batchnorm(Sequential(*layers())),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("build", LEFT, ids=lambda build: getattr(build, "__name__", "partial"))
def test_what_others_reach_is_left_and_the_reason_said(build, capsys):
    torch.manual_seed(0)
    model = build()
    for module in model.modules():
        if isinstance(module, BatchNorm1d):
            torch.nn.init.normal_(module.bias)
    x = torch.randn(8, 4)
    expected = model.eval()(x)
    assert optimize(model, always=True) is model
    assert fused(model) == 0 and torch.allclose(model(x), expected, rtol=1e-5, atol=1e-6)
    assert capsys.readouterr().out.strip()


class Calling(torch.nn.Module):
    """As torchvision's networks are written."""

    def __init__(self):
        super().__init__()
        self.scale = 1.0
        self.features = Named(Linear(4, 4), *layers())
        self.stages = ModuleList([Sequential(*layers()), Sequential(Sequential(*layers()))])
        self.branches = ModuleDict({"a": Sequential(*layers()), "b": Sequential(*layers())})
        self.down = Sequential(*layers())
        self.blocks = Sequential(*[Sequential(*layers())])
        for module in self.modules():
            if isinstance(module, Linear):
                torch.nn.init.normal_(module.weight)

    def forward(self, x):
        return self._forward(x)

    def _forward(self, x):
        y = self.features(x) * self.scale if self.training else self.features(x)
        for i, stage in enumerate(self.stages):
            y = y + i * stage(y)
        y = torch.stack([branch(y) for name, branch in self.branches.items()]).sum(0)
        for block in self.blocks:
            y = block(y)
        if self.down is not None:
            y = y + self.down(x)
        return y


class Named(Sequential):
    """A subclass that adds nothing to calling its layers, like torchvision's Conv2dNormActivation."""

    def shown(self):
        return f"{type(self).__name__} of {len(self)}"


def test_typical_networks_are_fused():
    torch.manual_seed(0)
    model, x = Sequential(Calling(), Linear(4, 2)), torch.randn(16, 4)
    after = optimize(copy.deepcopy(model), always=True, verbose=False)
    assert fused(after) == 7
    for _ in range(2):
        assert torch.allclose(after(x), model(x), rtol=1e-4, atol=1e-5)
        model.eval(), after.eval()
    again = optimize(torch.nn.DataParallel(torch.compile(model, backend="eager")), always=True, verbose=False)
    model.cpu()  # DataParallel has moved it to the GPU, if there is one
    assert fused(again) == 7 and torch.allclose(model(x), after(x), rtol=1e-4, atol=1e-5)


def test_a_part_of_a_model_is_seen_as_such():
    model, x = Indexing().eval(), torch.randn(3, 4)
    expected = model(x)
    assert optimize(model.body, always=True, verbose=False) is model.body
    assert fused(model) == 0 and torch.equal(model(x), expected)
    model = Calling()
    assert fused(optimize(model.features, always=True, verbose=False)) == 1


def test_another_model_that_holds_the_norm():
    norm, relu = layers()
    first, second = Sequential(norm, relu), Sequential(norm, Sigmoid())
    assert fused(optimize(first, always=True, verbose=False)) == 0
    del second
    assert fused(optimize(first, always=True, verbose=False)) == 1
    assert isinstance(relu, ReLU) and type(first[1]) is torch.nn.Identity


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("when", [0, 1, 3, "timing", "printing"])
def test_all_or_nothing(error, when, monkeypatch):
    model = Sequential(Sequential(*layers()), Sequential(Linear(4, 4), *layers()), torch.nn.Mish())
    before, calls = [(module, type(module), dict(module.__dict__)) for module in model.modules()], []
    kept = [(module, dict(module._modules)) for module in model.modules()]

    def interrupted(function, *args, **kwargs):
        calls.append(1)
        if when == "timing" or len(calls) - 1 == when:
            raise error("now")
        return function(*args, **kwargs)

    if when == "printing":
        monkeypatch.setattr("builtins.print", functools.partial(interrupted, print))
        when = 0
    elif when == "timing":
        monkeypatch.setattr(swapping, "best_of_rounds", functools.partial(interrupted, None))
    else:
        become = recognition.Edits.become
        monkeypatch.setattr(recognition.Edits, "become", lambda *a, **k: interrupted(become, *a, **k))
    if when == "timing" and error is RuntimeError:
        optimize(model)
    elif when == 3:  # there are three changes of a class
        optimize(model, always=True, verbose=False)
        return
    else:
        with pytest.raises(error, match="now"):
            optimize(model, always=when != "timing")
    for module, kind, state in before:
        assert type(module) is kind and module.__dict__ == state
    assert all(dict(module._modules) == children for module, children in kept)
