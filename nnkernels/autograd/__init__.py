"""What happens between a public function and its kernels: which route a call takes, and what backward keeps."""

from .node import has_cpp_node

__all__ = ["has_cpp_node"]
