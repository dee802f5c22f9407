"""The activations with learned parameters that are made from their rows, which say where those start."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from .. import functional
from ..registry import Learned, catalogue

__all__: list[str] = []


class _LearnedRow(torch.nn.Module):
    """The base of them all: parameters of one element or one for each channel, handed to the row's function."""

    _function: ClassVar[str]
    _start: ClassVar[dict[str, float]]
    __signature__: ClassVar[inspect.Signature]

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__()
        bound = self.__signature__.bind(*given, **named)
        bound.apply_defaults()
        options = bound.arguments
        self.num_parameters = options["num_parameters"]
        if self.num_parameters < 1:
            raise ValueError(f"{type(self).__name__} needs at least one parameter, got {self.num_parameters}")
        self.start = {name: options[name] for name in self._start}
        for name in self._start:
            value = torch.empty(self.num_parameters, device=options["device"], dtype=options["dtype"])
            setattr(self, name, Parameter(value))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for name, value in self.start.items():
            torch.nn.init.constant_(getattr(self, name), value)

    def forward(self, input: Tensor) -> Tensor:
        return getattr(functional, self._function)(input, *(getattr(self, name) for name in self._start))

    def extra_repr(self) -> str:
        started = [f"{name}={value}" for name, value in self.start.items()]
        return ", ".join([f"num_parameters={self.num_parameters}", *started])


def _signature(row: Learned) -> inspect.Signature:
    def base(num_parameters: int = 1, device: torch.device | str | None = None, dtype: torch.dtype | None = None): ...

    count, *rest = inspect.signature(base).parameters.values()
    start = [count.replace(name=name, default=value, annotation="float") for name, value in row.start.items()]
    return inspect.Signature([count, *start, *rest])


def _document(row: Learned) -> str:
    started = "".join(f"\n        {name}: where it starts." for name in row.start)
    return f"""{row.formula}

    Args:
        num_parameters: 1, or the number of channels (dimension 1 of the input).{started}
        device: of the parameters.
        dtype: of the parameters; it need not be the input's.

    Raises:
        ValueError: there would be no parameter.

    Shape: input and output alike, any shape; with more than one parameter (N, num_parameters, ...). Values in
        {row.range}.
    Good for {row.good_for}; {row.drawback}.
    Source: {row.source}.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.{row.module}(3)(torch.zeros(2, 3)).shape
        torch.Size([2, 3])
    """


def _make(row: Learned) -> type[_LearnedRow]:
    members = {
        "__module__": __name__,
        "__doc__": _document(row),
        "__signature__": _signature(row),
        "_function": row.name,
        "_start": dict(row.start),
    }
    return type(row.module, (_LearnedRow,), members)


for _row in catalogue(Learned):
    if _row.start:
        globals()[_row.module] = _make(_row)
        __all__.append(_row.module)
