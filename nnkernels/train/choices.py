"""The names that settings may have. What they stand for is found where it is used, and needs torch; this does not.

Losses and optimisers are those that torch has had since 2.11.
"""

NETWORKS = (
    "mlp", "cnn", "rnn", "lstm", "gru", "transformer", "spiking", "modular", "vit", "attention_pooling", "cnn_gru",
)  # fmt: skip
OWN = "own"
"""The name of data that was given in Python."""
DATA = (
    "digits",
    "breast_cancer",
    "wine",
    "iris",
    "diabetes",
    "karate",
    "sunspots",
    "pydoc",
    "mnist5k",
    "mnist1d",
    "xor",
    "spiral",
    "bags",
    "adding",
    "mackey_glass",
    "lorenz",
    "mnist",
    "fashion_mnist",
    "cifar10",
)
LOSSES = (
    "bce",
    "bce_with_logits",
    "cross_entropy",
    "hinge_embedding",
    "huber",
    "kl_div",
    "l1",
    "mse",
    "multi_label_margin",
    "multi_label_soft_margin",
    "multi_margin",
    "nll",
    "poisson_nll",
    "smooth_l1",
    "soft_margin",
)
METRICS = ("accuracy", "balanced_accuracy", "f1", "auroc", "bits", "perplexity", "r2", "mse", "mae")
OPTIMIZERS = (
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "asgd",
    "muon",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
)
SCHEDULES = ("constant", "cosine", "one_cycle", "step", "plateau")
SHARDS = ("fsdp",)
PRECISIONS = ("float32", "bf16", "fp16", "float64")
PRUNERS = ("median", "hyperband", "none")
"""Of a study: how trials that look bad are cut short."""
