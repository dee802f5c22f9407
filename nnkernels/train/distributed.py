"""A run in the processes that torchrun started: NCCL between GPUs, gloo between CPUs."""

from __future__ import annotations

import os
import signal as signals
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict as whole
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from .contexts import seed_everything, set_random_state
from .parallel import copied, local, sharded, split
from .processes import Processes, T
from .settings import Settings

_FULL = whole.StateDictOptions(full_state_dict=True, cpu_offload=True)


class Distributed(Processes):
    """One of several processes; torchrun tells each which it is.

    Args:
        settings: of them `device` ("auto" and "cuda" are the GPU with this process's number on its machine), `shard`,
            `tensor_parallel` (neighbours are a group, and see the same samples) and `precision` count.

    Raises:
        ValueError: the processes cannot be divided so, or the device cannot be used.
        RuntimeError: the others cannot be reached.
    """

    def __init__(self, settings: Settings) -> None:
        shard, tensor_parallel, device = settings.shard, settings.tensor_parallel, settings.device
        size, here = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if size % tensor_parallel:
            raise ValueError(
                f"tensor_parallel {tensor_parallel} does not divide the {size} processes; choose a divisor of {size}"
            )
        if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) and settings.out is None:
            raise ValueError("--max-restarts needs --out FOLDER, in which a restarted run finds its checkpoints")
        local = int(os.environ.get("LOCAL_RANK", 0))
        if device.startswith("cuda:"):
            raise ValueError(f"device {device!r}: each of several processes has its own GPU; choose cuda, cpu or auto")
        if device == "auto":
            device = "cuda" if torch.cuda.device_count() >= here else "cpu"
        super().__init__(f"cuda:{local}" if device == "cuda" else device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        _meet("cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo")
        self._talk: Any = dist.new_group(
            backend="gloo"
        )  # of what is said beside the gradients: it never waits for a GPU
        self._vote: tuple[Any, Tensor] | None = None
        self._orders: dict[str, Tensor] = {}

        self.size = size // tensor_parallel
        self.divides = shard is not None or tensor_parallel > 1
        self._dtype = torch.bfloat16 if settings.precision == "bf16" else None
        copies, shards = (1, self.size) if shard else (self.size, 1)
        self._sharding = ("shards",) if shard else ("copies", "shards")
        names = ("copies", "shards", "tensor")
        self._mesh = init_device_mesh(self.device.type, (copies, shards, tensor_parallel), mesh_dim_names=names)
        if self.divides and settings.precision == "fp16":
            raise ValueError(
                "fp16's gradient scaler does not see divided weights; choose bf16, or neither shard nor split"
            )
        self.rank = dist.get_rank() // tensor_parallel
        self.is_main = dist.get_rank() == 0
        self.restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0

    def divide(self, model: torch.nn.Module) -> None:
        if self._mesh["tensor"].size() > 1:
            self._orders |= split(model, self._mesh["tensor"])
        if self.divides and self.size > 1:
            sharded(model, self._mesh[self._sharding], self._dtype)

    def wrap(self, model: torch.nn.Module) -> torch.nn.Module:
        return model if self.divides or self.size == 1 else copied(model, self._mesh["copies"])

    def mean(self, value: float, weight: float = 1.0) -> float:
        sums = torch.tensor([value * weight, weight], dtype=torch.float64)
        dist.all_reduce(sums, group=self._talk)
        return (sums[0] / sums[1]).item()

    def means(self, values: list[float]) -> list[float]:
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=self._talk)
        return (sums / dist.get_world_size()).tolist()

    def any(self, signal: str | None) -> str | None:
        """As asked one step ago: the question goes round while the next step computes."""
        came = 0
        if self._vote is not None:
            self._vote[0].wait()
            came = int(self._vote[1].item())
        ballot = torch.tensor(0 if signal is None else signals.Signals[signal].value)
        self._vote = dist.all_reduce(ballot, dist.ReduceOp.MAX, group=self._talk, async_op=True), ballot
        return signals.Signals(came).name if came else None

    def barrier(self) -> None:
        dist.barrier(group=self._talk)

    def agreed(self, decide: Callable[[], T]) -> T:
        box: list[Any] = [None]
        if self.is_main:
            try:
                box = [(decide(), None)]
            except Exception as error:  # whatever it is, all processes raise it
                box = [(None, error)]
        dist.broadcast_object_list(box, src=0, group=self._talk)
        value, refusal = box[0]
        if refusal is not None:
            raise refusal
        return value

    def gathered(self, value: T) -> list[T]:
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value, group=self._talk)
        return values

    def seed(self, seed: int) -> None:
        if self.rank:
            seed_everything(seed + self.rank * 1_000_003)

    def restore_random(self, states: list[dict[str, Any]]) -> None:
        if len(states) == dist.get_world_size():
            set_random_state(states[dist.get_rank()])
        else:
            super().restore_random(states)
            self.seed(torch.initial_seed())

    def clip(self, weights: list[torch.nn.Parameter], norm: float) -> None:
        """As in one process, with norms that are summed over the parts; parts of different kinds have their own."""
        if not self.divides:
            super().clip(weights, norm)
            return
        kinds: dict[Any, list[Tensor]] = {}
        for weight in weights:
            if (grad := weight.grad) is not None:
                kind = (grad.device_mesh, grad.placements) if isinstance(grad, DTensor) else None
                kinds.setdefault(kind, []).append(grad)
        squares = []
        for kind, grads in kinds.items():
            square = torch.nn.utils.get_total_norm([local(one) for one in grads]) ** 2
            for dim, placement in enumerate(kind[1] if kind else ()):
                if not placement.is_replicate():
                    dist.all_reduce(square, group=kind[0].get_group(dim))
            squares.append(square)
        total = torch.stack(squares).sum().sqrt()
        factor = (norm / (total + 1e-6)).clamp(max=1.0)
        for weight in weights:
            if (grad := weight.grad) is not None:
                local(grad).mul_(factor)

    def weights(self, model: torch.nn.Module) -> dict[str, Any]:
        if not self.divides:
            return super().weights(model)
        return {
            name: self._as_one_has_it(name, one)
            for name, one in whole.get_model_state_dict(model, options=_FULL).items()
        }

    def load_weights(self, model: torch.nn.Module, weights: dict[str, Any]) -> None:
        if not self.divides:
            super().load_weights(model, weights)
            return
        mine = {name: self._as_divided(name, one) for name, one in weights.items()}
        whole.set_model_state_dict(model, mine, options=whole.StateDictOptions(full_state_dict=True))

    def optimizer_state(self, model: torch.nn.Module, optimizer: Optimizer) -> dict[str, Any]:
        if not self.divides:
            return super().optimizer_state(model, optimizer)
        found: Any = whole.get_optimizer_state_dict(model, optimizer, options=_FULL)
        if not self.is_main:
            return {}
        numbers = {name: number for number, name in enumerate(_names(model, optimizer))}
        groups = [{**group, "params": [numbers[one] for one in group["params"]]} for group in found["param_groups"]]
        state = {
            numbers[name]: {key: self._as_one_has_it(name, one) for key, one in values.items()}
            for name, values in found["state"].items()
        }
        return {"state": state, "param_groups": groups}

    def load_optimizer(self, model: torch.nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
        if not self.divides:
            super().load_optimizer(model, optimizer, state)
            return
        names = _names(model, optimizer)
        groups = [{**group, "params": [names[one] for one in group["params"]]} for group in state["param_groups"]]
        values = {
            names[number]: {key: self._as_divided(names[number], one) for key, one in values.items()}
            for number, values in state["state"].items()
        }
        named: Any = {"state": values, "param_groups": groups}
        whole.set_optimizer_state_dict(model, optimizer, named, options=whole.StateDictOptions(full_state_dict=True))

    def close(self) -> None:
        if self._vote is not None:
            self._vote[0].wait()
        dist.destroy_process_group()

    def _order(self, name: str, value: Any) -> Tensor | None:
        order = self._orders.get(name.removeprefix("module."))
        return order if order is not None and isinstance(value, Tensor) and value.ndim else None

    def _as_one_has_it(self, name: str, value: Any) -> Any:
        order = self._order(name, value)
        return value if order is None else value[order.argsort()]

    def _as_divided(self, name: str, value: Any) -> Any:
        order = self._order(name, value)
        return value if order is None else value[order]


def _names(model: torch.nn.Module, optimizer: Optimizer) -> list[str]:
    """The weights' names in the order in which the optimiser numbers them."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    return [names[id(weight)] for group in optimizer.param_groups for weight in group["params"]]


def _meet(backend: str) -> None:
    """Raises RuntimeError if the processes do not find each other.

    torchrun's store outlives its workers: each start has its own part of it, or the restarted ones would read the
    addresses of the dead.
    """
    if dist.is_initialized():
        return
    try:
        store, rank, size = next(dist.rendezvous("env://"))
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RuntimeError(
            f"the processes cannot meet at {where}: {str(error).splitlines()[0]}. "
            "If the port is in use, choose another: torchrun --standalone, or --master-port"
        ) from error
