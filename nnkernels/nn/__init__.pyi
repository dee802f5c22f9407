"""Written by tools/stubs.py from the catalogue."""

import torch

from .addressing import (
    ContentAddressing as ContentAddressing,
)
from .alpha_dropout import (
    AlphaDropout as AlphaDropout,
    FeatureAlphaDropout as FeatureAlphaDropout,
)
from .batch_normalization import (
    BatchNormAct1d as BatchNormAct1d,
    BatchNormAct2d as BatchNormAct2d,
    BatchNormAct3d as BatchNormAct3d,
    GroupNormAct as GroupNormAct,
    SyncBatchNormAct as SyncBatchNormAct,
)
from .capsules import (
    Route as Route,
    Squash as Squash,
)
from .elementwise import (
    GELU as GELU,
    module_of as module_of,
)
from .fused import (
    BiasAct as BiasAct,
)
from .gated import (
    GEGLU as GEGLU,
    GLU as GLU,
    Gated as Gated,
    ReGLU as ReGLU,
    SiTUGLU as SiTUGLU,
    SwiGLU as SwiGLU,
)
from .learned import (
    APL as APL,
    PReLU as PReLU,
    StarReLU as StarReLU,
    Swish as Swish,
)
from .learned_units import (
    DyT as DyT,
    Snake as Snake,
    SnakeBeta as SnakeBeta,
    XIELU as XIELU,
)
from .linear import (
    GatedMLP as GatedMLP,
    LinearAct as LinearAct,
    MLP as MLP,
    MaxoutLinear as MaxoutLinear,
)
from .normalization import (
    AddLayerNorm as AddLayerNorm,
    AddRMSNorm as AddRMSNorm,
    GatedRMSNorm as GatedRMSNorm,
    LayerNormAct as LayerNormAct,
    RMSNormAct as RMSNormAct,
)
from .pooling import (
    Maxout as Maxout,
)
from .quantized import (
    ActQuantize as ActQuantize,
    GatedQuantize as GatedQuantize,
)
from .radial import (
    GaussianRBF as GaussianRBF,
)
from .random import (
    BernoulliStraightThrough as BernoulliStraightThrough,
    Dropout as Dropout,
    RReLU as RReLU,
)
from .recurrent import (
    GRUCell as GRUCell,
)
from .reducing import (
    LogSoftmax as LogSoftmax,
    Softmax as Softmax,
    Softmax2d as Softmax2d,
    Softmin as Softmin,
)
from .scaling import (
    LayerScale as LayerScale,
)
from .sparsemax import (
    Sparsemax as Sparsemax,
)
from .spiking import (
    LIF as LIF,
)

__all__: list[str]

class Sigmoid(torch.nn.Sigmoid):
    def __init__(self, *, saving: str | None = ...) -> None: ...

class Tanh(torch.nn.Tanh):
    def __init__(self, *, saving: str | None = ...) -> None: ...

class ReLU(torch.nn.ReLU):
    def __init__(self, inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class ReLU6(torch.nn.ReLU6):
    def __init__(self, inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class ReLUSquared(torch.nn.Module):
    def __init__(self, inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class LeakyReLU(torch.nn.LeakyReLU):
    def __init__(self, negative_slope: float = ..., inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class ELU(torch.nn.ELU):
    def __init__(self, alpha: float = ..., inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class CELU(torch.nn.CELU):
    def __init__(self, alpha: float = ..., inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class SELU(torch.nn.SELU):
    def __init__(self, inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class SiLU(torch.nn.SiLU):
    def __init__(self, inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class GELUTanh(torch.nn.Module):
    def __init__(self, *, saving: str | None = ...) -> None: ...

class QuickGELU(torch.nn.Module):
    def __init__(self, *, saving: str | None = ...) -> None: ...

class Hardsigmoid(torch.nn.Hardsigmoid):
    def __init__(self, inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class Hardswish(torch.nn.Hardswish):
    def __init__(self, inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class Hardtanh(torch.nn.Hardtanh):
    def __init__(self, min_val: float = ..., max_val: float = ..., inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class Mish(torch.nn.Mish):
    def __init__(self, inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class Softplus(torch.nn.Softplus):
    def __init__(self, beta: float = ..., threshold: float = ..., *, saving: str | None = ...) -> None: ...

class Softsign(torch.nn.Softsign):
    def __init__(self, *, saving: str | None = ...) -> None: ...

class LogSigmoid(torch.nn.LogSigmoid):
    def __init__(self, *, saving: str | None = ...) -> None: ...

class Threshold(torch.nn.Threshold):
    def __init__(self, threshold: float, value: float, inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class ThresholdedReLU(torch.nn.Module):
    def __init__(self, theta: float = ..., inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class Softshrink(torch.nn.Softshrink):
    def __init__(self, lambd: float = ..., *, saving: str | None = ...) -> None: ...

class Hardshrink(torch.nn.Hardshrink):
    def __init__(self, lambd: float = ..., *, saving: str | None = ...) -> None: ...

class Tanhshrink(torch.nn.Tanhshrink):
    def __init__(self, *, saving: str | None = ...) -> None: ...

class Softcap(torch.nn.Module):
    def __init__(self, cap: float = ..., inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class HardMish(torch.nn.Module):
    def __init__(self, inplace: bool = ..., *, saving: str | None = ...) -> None: ...

class SqrtSoftplus(torch.nn.Module):
    def __init__(self, *, saving: str | None = ...) -> None: ...
