"""Batch norms with an activation keep it when tools rebuild batch norms; conversion synchronises them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from launching import DEVICES, join, together
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nnkernels import nn

needs_processes = pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")


def hand_built():
    norms = [nn.BatchNormAct2d(3, activation="relu"), nn.BatchNormAct2d(3, 1e-3, None, activation="elu", alpha=0.5)]
    return torch.nn.Sequential(norms[0], torch.nn.Sequential(norms[1], torch.nn.BatchNorm2d(3)))


def seen(shape=(6, 3, 4, 4)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2 + 1


@pytest.mark.parametrize("convert", [
    torch.nn.SyncBatchNorm.convert_sync_batchnorm, nn.SyncBatchNormAct.convert_sync_batchnorm,
])  # fmt: skip
def test_conversion_keeps_the_activation(convert):
    model, x = hand_built(), seen()
    model(x)
    converted = convert(convert(copy.deepcopy(model)))
    kinds = [type(module) for module in converted.modules()]
    assert kinds.count(nn.SyncBatchNormAct) == 2 and kinds.count(torch.nn.SyncBatchNorm) == 1
    assert [type(module) for module in model.modules()].count(nn.BatchNormAct2d) == 2
    for training in (True, False):
        model.train(training), converted.train(training)
        assert torch.allclose(converted(x), model(x), rtol=1e-5, atol=1e-6)
        for name, tensor in converted.state_dict().items():
            assert torch.allclose(tensor, model.state_dict()[name])
    again = pickle.loads(pickle.dumps(converted))
    assert torch.equal(again(x), converted(x)) and again.state_dict().keys() == model.state_dict().keys()


def test_conversion_is_in_place():
    module = nn.BatchNormAct1d(3, activation="silu")
    weight, calls, group = module.weight, [], object()
    module.register_forward_hook(lambda *_: calls.append(1))
    assert torch.nn.SyncBatchNorm.convert_sync_batchnorm(module, group) is module
    assert type(module) is nn.SyncBatchNormAct and module.weight is weight and module.process_group is group
    assert torch.nn.SyncBatchNorm.convert_sync_batchnorm(module).process_group is None
    module(torch.randn(4, 3, 2)), module(torch.randn(4, 3, 2, 2, 2))
    assert len(calls) == 2 and repr(module).startswith("SyncBatchNormAct(3, ")
    with pytest.raises(ValueError, match=r"\(3,\)"):
        module(torch.randn(3))
    built = nn.SyncBatchNormAct(3, 1e-5, 0.1, True, True, group, activation="leaky_relu", negative_slope=0.1)
    assert built.process_group is group and built.state_dict().keys() == torch.nn.SyncBatchNorm(3).state_dict().keys()


def test_a_subclass_is_not_converted_to_something_else():
    class Doubled(nn.BatchNormAct2d):
        def forward(self, input):
            return 2 * super().forward(input)

    with pytest.raises(TypeError, match="Doubled"):
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(Doubled(3))


def frozen(module):
    """As detection libraries freeze batch norms."""
    if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
        return torch.nn.Identity()
    for name, child in module.named_children():
        found = frozen(child)
        if found is not child:
            module.add_module(name, found)
    return module


def folded(model):
    """As tools for inference fold every batch norm behind a convolution into it."""
    for before, after in zip([*model.named_children()], [*model.named_children()][1:], strict=False):
        if isinstance(after[1], torch.nn.modules.batchnorm._BatchNorm):
            model.add_module(before[0], fuse_conv_bn_eval(before[1], after[1]))
            model.add_module(after[0], torch.nn.Identity())
    return model


@pytest.mark.parametrize("norm", [nn.BatchNormAct2d, nn.SyncBatchNormAct])
def test_tools_that_look_for_batch_norms_do_not_take_it_for_one(norm):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), norm(3, activation="relu")).eval()
    x, conv = seen(), model[0]
    expected = model(x)
    assert torch.equal(folded(model)(x), expected) and model[0] is conv
    assert not isinstance(model[1], torch.nn.modules.batchnorm._BatchNorm)
    try:
        frozen(model)
    except TypeError as error:  # said aloud, never dropped
        assert norm.__name__ in str(error) and "Identity" in str(error)
    assert torch.equal(model(x), expected)


def test_what_conversion_finds_is_seen_by_nothing_else():
    module, met = nn.BatchNormAct2d(3, activation="relu"), []
    module.apply(met.append)
    assert met == [module] == list(module.modules()) and list(module.children()) == []
    module.double().eval()
    module.add_module("extra", torch.nn.ReLU())
    assert list(module.children()) == [module.extra]


def _in_two(device_type, sizes):
    device, rank = join(device_type), torch.distributed.get_rank()
    x = seen((sum(sizes), 3, 4, 4))[sum(sizes[:rank]) :][: sizes[rank]].to(device)
    module = torch.nn.Sequential(hand_built()[0]).to(device)
    module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
    spread = torch.nn.parallel.DistributedDataParallel(module)
    spread(x).square().sum().backward()
    found = [spread(x), module[0].running_mean, module[0].weight.grad]
    torch.distributed.destroy_process_group()
    return [tensor.detach().cpu().numpy() for tensor in found]


@needs_processes
@pytest.mark.parametrize("device_type", DEVICES)
def test_converted_modules_under_ddp_see_the_whole_batch(device_type):
    sizes = (2, 5)
    parts = [[torch.from_numpy(one) for one in part] for part in together(2, _in_two, device_type, sizes)]
    x, whole = seen((sum(sizes), 3, 4, 4)), torch.nn.BatchNorm2d(3)
    torch.relu(whole(x)).square().sum().backward()
    y = torch.relu(whole(x))
    assert torch.allclose(torch.cat([part[0] for part in parts]), y, rtol=1e-5, atol=1e-5)
    for _, mean, grad in parts:
        assert torch.allclose(mean, whole.running_mean, rtol=1e-5)
        assert torch.allclose(2 * grad, whole.weight.grad, rtol=1e-4, atol=1e-4)  # DDP takes the mean
