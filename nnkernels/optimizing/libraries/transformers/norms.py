"""RMS norms, which differ in when they round and in what they add to their weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .... import functional
from ....contracts.normalization import summed_dtype
from ...adapting import adapter_of_source, fingerprint, own_class
from ...modules import Named, norm_act, norms_of_source
from ..torch import OnRows


def _rms(
    x: Tensor, named: Named, weight: Tensor, eps: float, offset: float, residual: Any, dtype: Any, addend: Any
) -> Any:
    if addend is not None:
        return functional.add_rms_norm(x, addend, x.shape[-1], weight, eps, dtype=dtype, offset=offset)
    return functional.rms_norm_act(
        x, x.shape[-1], weight, eps, named[0], residual=residual, dtype=dtype, offset=offset, **named[1]
    )


def _llama(norm: Any, x: Tensor, named: Named, residual: Any, dtype: Any, addend: Any = None) -> Any:
    """weight * norm(x).to(type of x), which is of the wider of the two types."""
    dtype = dtype or torch.promote_types(summed_dtype(x, addend), norm.weight.dtype)
    return _rms(x, named, norm.weight, norm.variance_epsilon, 0.0, residual, dtype, addend)


def _in_one(norm: Any, x: Tensor, named: Named, residual: Any, dtype: Any, addend: Any = None) -> Any:
    """(weight * norm(x)).to(type of x)."""
    dtype = dtype or summed_dtype(x, addend)
    return _rms(x, named, norm.weight, norm.variance_epsilon, 0.0, residual, dtype, addend)


def _gemma(norm: Any, x: Tensor, named: Named, residual: Any, dtype: Any, addend: Any = None) -> Any:
    """((1 + weight) * norm(x)).to(type of x)."""
    return _rms(x, named, norm.weight, norm.eps, 1.0, residual, dtype or summed_dtype(x, addend), addend)


@adapter_of_source("transformers.models.llama.modeling_llama.LlamaRMSNorm", "9635bcd843f3")
@adapter_of_source("transformers.models.afmoe.modeling_afmoe.AfmoeRMSNorm", "eef4e978a32a")
class RMSNorm(OnRows):
    """An rms norm in one pass, where the class takes several over float32."""

    def fused(self: Any, hidden_states: Tensor) -> Any:
        return norm_act(self, None, hidden_states)

    def sample_row(self: Any) -> tuple[int, ...]:
        return tuple(self.weight.shape)


@adapter_of_source("transformers.models.gemma.modeling_gemma.GemmaRMSNorm", "2dad5f576075")
class GemmaRMSNorm(RMSNorm):
    def examine(self: Any) -> str:
        return "" if fingerprint(own_class(self), "_norm") == "6dc7d2ba16b4" else "its `_norm` is none that is known"


norms_of_source.update(
    {
        ("transformers", "9635bcd843f3"): _llama,
        ("transformers", "eef4e978a32a"): _in_one,
        ("transformers", "2dad5f576075"): _gemma,
    }
)
