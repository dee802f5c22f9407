"""What the CUDA library has beside the stateless activations: products of matrices on Hopper."""
