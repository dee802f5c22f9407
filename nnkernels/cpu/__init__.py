"""The C++ kernels of the families that are not stateless and elementwise, over torch.ops.nnkernels."""
