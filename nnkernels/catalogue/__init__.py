"""The catalogue: one row for each activation and fused form, from which modules, functions, tests, benchmarks and
tables are derived.

Importing it fills the registry, in the order of docs/activations.md.
"""

from . import elementwise  # noqa: F401, I001  (the order of docs/activations.md)
from . import shrinking, derived, learned, random, reducing, pooling, gated, fused, remembering  # noqa: F401
