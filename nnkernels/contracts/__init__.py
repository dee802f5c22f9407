"""What a call of each family consists of: one file for each, with the types that stand in a call and a protocol.

The kernels of a family are a module of functions, `cpu/gated.py`, `triton/gated.py` and `reference/gated.py` for
instance, that fulfils the protocol `Kernels` in `contracts/gated.py`; what each function computes is told there. At the
end of the file the type checker is told which modules those are. The stateless activations, which have CUDA C++ kernels
as well, are objects: `Backend` in `contracts/elementwise.py`.
"""
