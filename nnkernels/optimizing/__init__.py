"""`nnkernels.optimize`: which modules of a model get a faster forward, how that is decided, and how it is undone."""

from .adapting import Adapted, Call, adapter, adapter_of_source, fingerprint
from .optimizing import optimize, restore
from .report import Report, Row

__all__ = ["Adapted", "Call", "Report", "Row", "adapter", "adapter_of_source", "fingerprint", "optimize", "restore"]
