"""Every private or version-dependent call into torch, so that a new torch is checked in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.autograd import forward_ad

F = TypeVar("F", bound=Callable[..., Any])


def transforms_active() -> bool:
    """Whether a functorch transform (grad, vmap, jvp, ...) is running; torch.compile traces this very call rightly."""
    return torch._C._are_functorch_transforms_active()


def is_batched_by_autograd(x: torch.Tensor) -> bool:
    """Whether `x` is a gradient under `is_grads_batched=True`, which runs no transform and has no storage."""
    return torch._C._functorch.is_legacy_batchedtensor(x)


def nested_forward_mode() -> bool:
    """Whether forward mode runs inside forward mode.

    A Function's `jvp` then silently loses the second derivative (pytorch issue 197867).
    """
    stack = torch._C._functorch.get_interpreter_stack() or []
    jvp = torch._C._functorch.TransformType.Jvp
    return sum(level.key() == jvp for level in stack) + has_forward_level() > 1


def has_forward_level() -> bool:
    """Whether the code runs under `torch.autograd.forward_ad.dual_level()`; functorch counts its own levels."""
    return not transforms_active() and forward_ad._current_level >= 0


def dispatch_mode_active() -> bool:
    """Whether a `TorchDispatchMode` (fake tensors, FLOP counters, make_fx) watches the operators."""
    return torch._C._len_torch_dispatch_stack() > 0


def current_dispatch_mode() -> object:
    """The `TorchDispatchMode` that watches this thread's operators last; None without one."""
    depth = torch._C._len_torch_dispatch_stack()
    return torch._C._get_dispatch_stack_at(depth - 1) if depth else None


def untraced(function: F) -> F:
    """`function`, which Dynamo then calls and does not trace; `torch.compiler.disable` would import Dynamo for it.

    Compiled autograd traces backward functions, and in them loses what autograd asks of a tensor made there.
    """
    dynamo = torch._C._dynamo.eval_frame
    if hasattr(dynamo, "set_code_exec_strategy"):  # this runs at import, which a later torch must not break
        skip = dynamo._FrameExecStrategy(dynamo._FrameAction.SKIP, dynamo._FrameAction.SKIP)
        dynamo.set_code_exec_strategy(function.__code__, skip)
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return function


def overwrite(kept: torch.Tensor, new: torch.Tensor) -> None:
    """Writes `new` into running statistics as torch's batch norms do: their version does not move.

    So a norm of torch's and one of ours may share them before a backward pass. What traces has to see the write.
    """
    if torch.compiler.is_compiling() or transforms_active():
        kept.copy_(new)
    else:
        with torch._C._AutoDispatchBelowADInplaceOrView():
            kept.copy_(new)


def ragged_dim(x: torch.Tensor) -> int:
    """The dimension along which a jagged tensor's rows differ in length."""
    return x._ragged_idx  # type: ignore[attr-defined]


def autocasts(device_type: str) -> bool:
    """Whether autocast is on for such a device; torch's own question raises for "meta", which knows no autocast."""
    return device_type != "meta" and torch.is_autocast_enabled(device_type)


def computed_in(device_type: str, dtype: torch.dtype) -> torch.dtype:
    """The type in which products of float32 numbers, or of `dtype` without autocast, are computed on such a device."""
    return torch.get_autocast_dtype(device_type) if autocasts(device_type) else dtype


def exporting() -> bool:
    """Whether torch.export traces; `torch.compiler.is_exporting` is true of torch.compile as well before torch 2.14."""
    return torch.compiler._is_exporting_flag


def linear_relu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """max(x W^T + b, 0) of matrices, by cuBLAS in one kernel."""
    return torch._addmm_activation(bias, x, weight.t())
