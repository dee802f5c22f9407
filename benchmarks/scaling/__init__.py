"""What `benchmarks/distributed.py` measures, one thing a file."""
