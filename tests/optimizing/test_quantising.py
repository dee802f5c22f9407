"""Training for quantisation, whose tools compare classes exactly, finds in an optimised model what it found before."""

from __future__ import annotations

import pytest
import torch
from test_around import assert_alike, fused, images, pair, step
from torch.nn import BatchNorm2d, Conv2d, GroupNorm, Hardswish, ReLU, Sequential, Sigmoid

import nnkernels


class Quantisable(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.leave = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
        self.stem = Sequential(Conv2d(3, 8, 3), BatchNorm2d(8), ReLU())
        self.body = Sequential(Conv2d(8, 4, 3), Hardswish(), GroupNorm(2, 4))
        self.relu, self.act = ReLU(), Sigmoid()

    def forward(self, x):
        return self.leave(self.act(self.relu(self.body(self.stem(self.enter(x))))))


def eagerly(model, x):
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    torch.ao.quantization.fuse_modules_qat(model.stem, ["0", "1", "2"], inplace=True)
    return torch.ao.quantization.prepare_qat(model), torch.ao.quantization.convert


def by_graph(model, x):
    from torch.ao.quantization import quantize_fx

    told = torch.ao.quantization.get_default_qat_qconfig_mapping("fbgemm")
    return quantize_fx.prepare_qat_fx(model, told, (x,)), quantize_fx.convert_fx


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("restored", [True, False])
@pytest.mark.parametrize("prepare", [eagerly, by_graph])
def test_training_for_quantisation(prepare, restored):
    """Tools that compare classes exactly find them: after `restore`, and where they configure an optimised module."""
    kinds = []

    def run(model):
        if restored:
            nnkernels.restore(model)
        x = images(dtype=torch.float32, device="cpu")
        prepared, convert = prepare(model, x)
        results = step(prepared, x)
        converted = convert(prepared.eval())
        kinds.append([[type(one) for one in made.modules()] for made in (prepared, converted)][prepare is by_graph :])
        return results, converted(x)

    models = pair(Quantisable, torch.float32, "cpu")
    assert fused(models[1]) == ["stem", "body.1", "body.2", "relu", "act"]
    assert_alike(run, models, served=False, rtol=0, atol=0)
    assert kinds[0] == kinds[1] or prepare is by_graph


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("prepare", [eagerly, by_graph])
def test_a_model_that_is_prepared_is_left(prepare, training):
    """The norm inside a fused convolution too, which is told nothing itself; what it is converted to is the same."""
    x, converted = images(dtype=torch.float32, device="cpu"), []
    for optimised in (False, True):
        torch.manual_seed(0)
        prepared, convert = prepare(Quantisable().train(), x)
        assert "BatchNorm2d" in [type(module).__name__ for module in prepared.modules()]
        prepared.train(training)
        if optimised:
            report = nnkernels.optimize(prepared, always=True, verbose=False)
            assert report.rows and not report.fused and not fused(prepared)
            assert all("quantised" in row.why for row in report.rows)
        prepared(x)
        converted.append(convert(prepared.eval()))
    kinds = [[type(one).__name__ for one in made.modules()] for made in converted]
    assert kinds[0] == kinds[1] and "ConvReLU2d" in kinds[0]
    assert torch.equal(converted[0](x), converted[1](x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_graph_that_was_prepared_with_parts_left_out_is_left_whole():
    from torch.ao.quantization import quantize_fx

    told = torch.ao.quantization.QConfigMapping().set_module_name(
        "stem", torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    )
    prepared = quantize_fx.prepare_qat_fx(Quantisable().train(), told, (images(dtype=torch.float32, device="cpu"),))
    assert not nnkernels.optimize(prepared, always=True, verbose=False).fused


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_prepared_part_of_a_model_is_left_and_the_rest_is_not():
    x = images(dtype=torch.float32, device="cpu")
    model = Sequential(by_graph(Quantisable().train(), x)[0], Sequential(GroupNorm(2, 4), ReLU()))
    nnkernels.optimize(model, always=True, verbose=False)
    assert fused(model) == ["1"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_quantised_model_computes_the_same_after_optimize():
    x = images(dtype=torch.float32, device="cpu")
    prepared, convert = by_graph(Quantisable().train(), x)
    prepared(x)
    converted = convert(prepared.eval())
    expected = converted(x)
    nnkernels.optimize(converted, always=True, verbose=False)
    assert torch.equal(converted(x), expected)
