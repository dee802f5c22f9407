"""Our activations and norms behind the names by which other libraries build theirs: see `timm` and `transformers`."""
