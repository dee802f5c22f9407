"""What a call of each family consists of: one file for each, with the types that stand in a call and a protocol.

The kernels of a family are a module of functions, `cpu/gated.py`, `triton/gated.py` and `reference/gated.py` for
instance, that fulfils the protocol `Kernels` in `contracts/gated.py`; what each function computes is told there. The
stateless activations, which have CUDA C++ kernels as well, are objects: `Backend` in `contracts/elementwise.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import (
    addressing,
    batch_normalization,
    capsules,
    fused,
    gated,
    learned,
    linear,
    normalization,
    pooling,
    quantized,
    radial,
    random,
    recurrent,
    reducing,
    saving,
    scaling,
    sparsemax,
    spiking,
)

FAMILIES: dict[str, type] = {
    "addressing": addressing.Kernels,
    "batch_normalization": batch_normalization.Kernels,
    "capsules": capsules.Kernels,
    "fused": fused.Kernels,
    "gated": gated.Kernels,
    "learned": learned.Kernels,
    "linear": linear.Kernels,
    "normalization": normalization.Kernels,
    "pooling": pooling.Kernels,
    "quantized": quantized.Kernels,
    "radial": radial.Kernels,
    "random": random.Kernels,
    "recurrent": recurrent.Kernels,
    "reducing": reducing.Kernels,
    "saving": saving.Kernels,
    "scaling": scaling.Kernels,
    "sparsemax": sparsemax.Kernels,
    "spiking": spiking.Kernels,
}
"""The protocol of each family's kernels."""

if TYPE_CHECKING:  # the type checker holds each backend's module against its protocol
    from ..cpu import addressing as cpu_addressing
    from ..cpu import batch_normalization as cpu_batch_normalization
    from ..cpu import capsules as cpu_capsules
    from ..cpu import fused as cpu_fused
    from ..cpu import gated as cpu_gated
    from ..cpu import learned as cpu_learned
    from ..cpu import linear as cpu_linear
    from ..cpu import normalization as cpu_normalization
    from ..cpu import pooling as cpu_pooling
    from ..cpu import radial as cpu_radial
    from ..cpu import random as cpu_random
    from ..cpu import recurrent as cpu_recurrent
    from ..cpu import reducing as cpu_reducing
    from ..cpu import saving as cpu_saving
    from ..cpu import sparsemax as cpu_sparsemax
    from ..cpu import spiking as cpu_spiking
    from ..reference import addressing as reference_addressing
    from ..reference import batch_normalization as reference_batch_normalization
    from ..reference import capsules as reference_capsules
    from ..reference import fused as reference_fused
    from ..reference import gated as reference_gated
    from ..reference import learned as reference_learned
    from ..reference import linear as reference_linear
    from ..reference import normalization as reference_normalization
    from ..reference import pooling as reference_pooling
    from ..reference import quantized as reference_quantized
    from ..reference import radial as reference_radial
    from ..reference import random as reference_random
    from ..reference import recurrent as reference_recurrent
    from ..reference import reducing as reference_reducing
    from ..reference import saving as reference_saving
    from ..reference import scaling as reference_scaling
    from ..reference import sparsemax as reference_sparsemax
    from ..reference import spiking as reference_spiking
    from ..triton import addressing as triton_addressing
    from ..triton import batch_normalization as triton_batch_normalization
    from ..triton import capsules as triton_capsules
    from ..triton import fused as triton_fused
    from ..triton import gated as triton_gated
    from ..triton import learned as triton_learned
    from ..triton import linear as triton_linear
    from ..triton import normalization as triton_normalization
    from ..triton import pooling as triton_pooling
    from ..triton import quantized as triton_quantized
    from ..triton import radial as triton_radial
    from ..triton import random as triton_random
    from ..triton import recurrent as triton_recurrent
    from ..triton import reducing as triton_reducing
    from ..triton import saving as triton_saving
    from ..triton import scaling as triton_scaling
    from ..triton import sparsemax as triton_sparsemax
    from ..triton import spiking as triton_spiking

    _addressing: tuple[addressing.Kernels, ...] = (cpu_addressing, triton_addressing, reference_addressing)
    _batch_normalization: tuple[batch_normalization.Kernels, ...] = (
        cpu_batch_normalization,
        triton_batch_normalization,
        reference_batch_normalization,
    )
    _capsules: tuple[capsules.Kernels, ...] = (cpu_capsules, triton_capsules, reference_capsules)
    _fused: tuple[fused.Kernels, ...] = (cpu_fused, triton_fused, reference_fused)
    _gated: tuple[gated.Kernels, ...] = (cpu_gated, triton_gated, reference_gated)
    _learned: tuple[learned.Kernels, ...] = (cpu_learned, triton_learned, reference_learned)
    _linear: tuple[linear.Kernels, ...] = (cpu_linear, triton_linear, reference_linear)
    _normalization: tuple[normalization.Kernels, ...] = (
        cpu_normalization,
        triton_normalization,
        reference_normalization,
    )
    _pooling: tuple[pooling.Kernels, ...] = (cpu_pooling, triton_pooling, reference_pooling)
    _quantized: tuple[quantized.Kernels, ...] = (triton_quantized, reference_quantized)
    _radial: tuple[radial.Kernels, ...] = (cpu_radial, triton_radial, reference_radial)
    _random: tuple[random.Kernels, ...] = (cpu_random, triton_random, reference_random)
    _recurrent: tuple[recurrent.Kernels, ...] = (cpu_recurrent, triton_recurrent, reference_recurrent)
    _reducing: tuple[reducing.Kernels, ...] = (cpu_reducing, triton_reducing, reference_reducing)
    _saving: tuple[saving.Kernels, ...] = (cpu_saving, triton_saving, reference_saving)
    _scaling: tuple[scaling.Kernels, ...] = (triton_scaling, reference_scaling)
    _sparsemax: tuple[sparsemax.Kernels, ...] = (cpu_sparsemax, triton_sparsemax, reference_sparsemax)
    _spiking: tuple[spiking.Kernels, ...] = (cpu_spiking, triton_spiking, reference_spiking)
