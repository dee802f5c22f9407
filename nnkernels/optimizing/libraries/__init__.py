"""What `nnkernels.optimize` knows of each library: a file or folder for each, in it an adapter for each kind of forward."""
