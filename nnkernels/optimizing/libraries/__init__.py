"""What `nnkernels.optimize` knows of each library: an adapter for each kind of forward, by library."""
