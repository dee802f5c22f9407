"""What is put around a model does with an optimised one what it does with the untouched one."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from functorch.compile import make_boxed_func
from launching import DEVICES, join, together
from torch._dynamo.backends.common import aot_autograd
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInputOutput,
    RowwiseParallel,
    parallelize_module,
)  # fmt: skip
from torch.nn import BatchNorm2d, Conv2d, GroupNorm, LayerNorm, Linear, ReLU, Sequential, SiLU
from torch.utils import checkpoint

import nnkernels
from nnkernels.optimizing import Adapted, adapter
from nnkernels.optimizing.adapting import is_adapted

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")


class Gate(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gate, self.up, self.down = Linear(width, width), Linear(width, width), Linear(width, width)

    def forward(self, x):
        return self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))


@adapter(Gate)
class FusedGate(Adapted):
    served = 0

    def fused(self, x):
        FusedGate.served += 1
        return self.down(nnkernels.functional.swiglu(self.gate(x), up=self.up(x)))


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = Sequential(Conv2d(3, 8, 3), BatchNorm2d(8), SiLU())
        self.body = Sequential(Conv2d(8, 8, 3), GroupNorm(2, 8), torch.nn.GELU())
        self.norm, self.gate, self.act, self.head = LayerNorm(8), Gate(8), SiLU(), Linear(8, 5)

    def forward(self, x):
        x = self.body(self.stem(x)).mean((2, 3))
        return self.head(self.act(x + self.gate(self.norm(x))))


FUSED = ["stem", "body", "norm", "gate", "act"]


def fused(model):
    return [name for name, module in model.named_modules() if is_adapted(module)]


def pair(build=Network, dtype=torch.float64, device=DEVICE):
    """A model, and its like that is optimised."""
    torch.manual_seed(0)
    plain = build().to(device, dtype)
    optimised = copy.deepcopy(plain)
    nnkernels.optimize(optimised, always=True, verbose=False)
    return plain, optimised


def images(batch=4, dtype=torch.float64, device=DEVICE):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch), dtype=dtype).to(device)


def state(model):
    """Gradients, which are taken away, and running statistics."""
    gradients = {name: one.grad.clone() for name, one in model.named_parameters()}
    model.zero_grad()
    return gradients, {name: one.clone() for name, one in model.named_buffers()}


def step(model, x, call=None):
    """A step of training with all that comes of it."""
    output = (model if call is None else call)(x)
    output.square().mean().backward()
    return output.detach().clone(), *state(model)


def assert_alike(run, models=None, served=True, **tolerances):
    """`run` gives the same with both; and `served` tells whether the optimised one's calls are served by ours."""
    plain, optimised = models or pair()
    expected, before = run(plain), FusedGate.served
    found = run(optimised)
    assert (FusedGate.served > before) == served
    torch.testing.assert_close(found, expected, **tolerances)
    return found


def test_all_of_it_is_fused():
    assert fused(pair()[1]) == FUSED
    assert_alike(lambda model: step(model, images()))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compilers_get_the_same_program(dynamic):
    programs = []

    def keep(graph, inputs):
        programs.append(graph.code)
        return make_boxed_func(graph)

    def compiled(model):
        torch._dynamo.reset()
        call = torch.compile(model, fullgraph=True, dynamic=dynamic, backend=aot_autograd(fw_compiler=keep))
        return [step(model, images(batch), call) for batch in (4, 6)]

    assert_alike(compiled, served=False)
    half = len(programs) // 2
    assert half == (2 if dynamic else 4) and programs[:half] == programs[half:]


@needs_cuda
@pytest.mark.gpu
def test_compiled_for_little_overhead():
    def compiled(model):
        torch._dynamo.reset()
        call = torch.compile(model, fullgraph=True, mode="reduce-overhead")
        results = []
        for batch in range(3):
            torch.compiler.cudagraph_mark_step_begin()
            results.append(step(model, images() + batch, call))
        return results

    assert_alike(compiled, served=False)


@needs_cuda
@pytest.mark.gpu
def test_cuda_graphs():
    def replayed(model):
        x, stream = images(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step(model, x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = model(x)
            output.square().mean().backward()
        x.copy_(images() + 1)
        graph.replay()
        return output.detach().clone(), *state(model)

    assert_alike(replayed)


def test_autocast_and_scaled_gradients():
    def trained(model):
        scaler, optimizer = torch.amp.GradScaler(DEVICE, 2.0**8), torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(2):
            with torch.autocast(DEVICE, torch.float16 if DEVICE == "cuda" else torch.bfloat16):
                output = model(images(dtype=torch.float32))
            scaler.scale(output.float().square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        return output.detach(), scaler.get_scale(), model.state_dict()

    assert_alike(trained, pair(dtype=torch.float32), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant):
    def run(model):
        def call(x):
            hidden = checkpoint.checkpoint_sequential(model.body, 3, model.stem(x), use_reentrant=reentrant)
            whole = checkpoint.checkpoint(model, x, use_reentrant=reentrant)
            return whole + hidden.mean()

        return step(model, images().requires_grad_(), call)

    assert_alike(run)


def test_a_norm_that_is_called_in_both_ways_before_backward():
    assert_alike(lambda model: step(model, images(), lambda x: model.stem[:2](x).mean() + model(x)))


def test_selective_checkpointing():
    def context():
        return checkpoint.create_selective_checkpoint_contexts([torch.ops.aten.convolution.default])

    def run(model):
        return step(model, images(), lambda x: checkpoint.checkpoint(model, x, use_reentrant=False, context_fn=context))

    assert_alike(run, served=False)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_exported_programs_are_the_same(strict, training):
    programs = []

    def exported(model):
        batch = {0: torch.export.Dim("batch", min=2, max=65535)}  # as far as torch knows CUDA's batch norm
        program = torch.export.export(model.train(training), (images(),), dynamic_shapes=(batch,), strict=strict)
        programs.append(program.graph_module.code)
        return program.module()(images(6))

    assert_alike(exported, served=False)
    assert programs[0] == programs[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("dynamo", [False, True])
def test_onnx_has_the_same_standard_operators(tmp_path, dynamo):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path, programs = tmp_path / "model.onnx", []

    def run(model):
        x = images(dtype=torch.float32, device="cpu")
        torch.onnx.export(model.eval(), (x,), path, dynamo=dynamo, verbose=False)
        programs.append([(node.domain, node.op_type) for node in onnx.load(path).graph.node])
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])

    models = pair(dtype=torch.float32, device="cpu")
    found = assert_alike(run, models, served=False)
    torch.testing.assert_close(found, models[0](images(dtype=torch.float32, device="cpu")), rtol=1e-4, atol=1e-5)
    assert programs[0] == programs[1] and {domain for domain, _ in programs[1]} <= {"", "ai.onnx"}


def test_compiled_ahead_of_time(tmp_path):
    plain, optimised = (model.eval() for model in pair(dtype=torch.float32, device="cpu"))
    x = images(dtype=torch.float32, device="cpu")
    program = torch.export.export(optimised, (x,))
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    torch.testing.assert_close(torch._inductor.aoti_load_package(path)(x), plain(x), rtol=1e-4, atol=1e-5)


def copied(model, mesh):
    return torch.nn.parallel.DistributedDataParallel(model)


def sharded(model, mesh):
    for block in (model.stem, model.body, model.gate):
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def split(model, mesh):
    whole, part = Replicate(), Shard(1)
    return parallelize_module(model, mesh, {
        "gate.gate": ColwiseParallel(), "gate.up": ColwiseParallel(), "gate.down": RowwiseParallel(),
        "act": PrepareModuleInputOutput(
            input_layouts=(whole,), desired_input_layouts=(part,), output_layouts=part, desired_output_layouts=whole
        ),
    })  # fmt: skip


def _in_two(device_type, way):
    device = join(device_type)
    mesh = torch.distributed.init_device_mesh(device_type, (2,))
    rank = 0 if way is split else torch.distributed.get_rank()

    def whole(tensor):
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def run(model):
        output, *rest = step(model, images(4 + rank, device=device), way(model, mesh))
        return output, *({name: whole(one) for name, one in part.items()} for part in rest)

    assert_alike(run, pair(device=device))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
@pytest.mark.parametrize("way", [copied, sharded, split])
@pytest.mark.parametrize("device_type", DEVICES)
def test_processes_that_train_together(device_type, way):
    together(2, _in_two, device_type, way)


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), saved])
def test_copies_train_on_their_own(duplicate):
    def run(model):
        other = duplicate(model)
        assert fused(other) == fused(model)
        results = step(other, images())
        assert all(one.grad is None for one in model.parameters())
        return results, step(model, images())

    assert_alike(run)


def doubled(model):
    return {name: 2 * one for name, one in model.named_parameters()}


def test_functional_calls():
    def run(model):
        return step(model, images(), lambda x: torch.func.functional_call(model, doubled(model), (x,)))

    assert_alike(run)


def test_functional_gradients():
    def run(model):
        def loss(parameters):
            return torch.func.functional_call(model.eval(), parameters, (images(),)).square().sum()

        return torch.func.grad(loss)({name: one.detach() for name, one in doubled(model).items()})

    assert_alike(run, served=False)


@pytest.mark.parametrize("training", [False, True])
def test_ensembles(training):
    def run(model):
        members = [copy.deepcopy(model).train(training) for _ in range(3)]
        for scale, member in enumerate(members, 1):
            member.load_state_dict({name: one * scale for name, one in model.state_dict().items()})
        base = copy.deepcopy(members[0]).to("meta")

        def call(parameters, buffers, x):
            return torch.func.functional_call(base, (parameters, buffers), (x,))

        stacked = torch.func.stack_module_state(members)
        together = torch.func.vmap(call, in_dims=(0, 0, None))(*stacked, images())
        return together, stacked[1]

    assert_alike(run, served=False)


def test_tied_weights():
    def run(model):
        model.gate.up.weight = model.gate.gate.weight
        model.body[1].weight = model.stem[1].weight
        gradients = step(model, images())[1]
        assert {"gate.up.weight", "body.1.weight"}.isdisjoint(gradients)
        return gradients

    assert_alike(run)


@pytest.mark.skipif(isinstance(nnkernels.dispatch.named("cpu"), str), reason="the C++ kernels were not built")
@pytest.mark.parametrize(
    "build, names",
    [
        (SiLU, {"NNKernelsSiLU", "NNKernelsSiLUBackward"}),
        (lambda: Gate(8), {"NNKernelsGated", "nnkernels::gated", "nnkernels::gated_backward"}),
        (lambda: LayerNorm(8), {"NNKernelsLayerNormAct", "nnkernels::norm_forward", "nnkernels::norm_backward"}),
        (lambda: Sequential(GroupNorm(2, 8), ReLU()), {"NNKernelsGroupNormAct", "NNKernelsGroupNormActBackward"}),
        (lambda: torch.nn.Softmax(-1), {"nnkernels::softmax", "nnkernels::softmax_backward", "NNKernelsSoftmax"}),
    ],
    ids=["silu", "gate", "layer_norm", "group_norm", "softmax"],
)
def test_a_profiler_shows_what_is_ours(build, names):
    plain, optimised = pair(build, torch.float32, "cpu")
    x = torch.randn(4, 8, requires_grad=True)
    for model, shown in ((plain, set()), (optimised, names)):
        for _ in range(3):  # from the third call on, C++ repeats what Python did
            with torch.profiler.profile() as profile:
                model(x).sum().backward()
            found = {event.name for event in profile.events() if event.name.lower().startswith("nnkernels")}
            assert shown <= found and bool(shown) == bool(found)
