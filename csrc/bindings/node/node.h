// What the C++ nodes share: which calls are plain ones, and how a node is made and finds itself.
#pragma once

#include <ATen/core/Tensor.h>
#include <Python.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <memory>
#include <type_traits>

namespace nnk {

// A strided tensor with data of its own: no subclass, no batch of a transform, nothing lazily conjugated or negated.
inline bool has_plain_data(const at::Tensor& x) {
  constexpr c10::DispatchKeySet plain =
      c10::DispatchKeySet({c10::DispatchKey::CPU, c10::DispatchKey::CUDA, c10::DispatchKey::ADInplaceOrView}) |
      c10::autograd_dispatch_keyset | c10::autocast_dispatch_keyset;
  // Not a difference of key sets, which keeps the bits of the device.
  return (x.key_set().raw_repr() & ~plain.raw_repr()) == 0;
}

inline bool has_tangent(const at::Tensor& x) { return x._fw_grad(/*level=*/0).defined(); }

inline bool context_is_plain() {
  return !c10::impl::tls_local_dispatch_key_set().included_.has(c10::DispatchKey::FuncTorchDynamicLayerFrontMode) &&
         !c10::impl::TorchDispatchModeTLS::any_modes_set() && !torch::jit::tracer::isTracing();
}

class PyLock {
 public:
  PyLock() : state_(PyGILState_Ensure()) {}
  ~PyLock() { PyGILState_Release(state_); }

 private:
  PyGILState_STATE state_;
};

// Nodes are held by intrusive pointers since torch 2.14, by shared ones before.
template <class Node>
auto make_node() {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, Node>) {
    return c10::make_intrusive<Node>();
  } else {
    return std::shared_ptr<Node>(new Node(), [](Node* node) { deleteNode(node); });
  }
}

template <class Node>
auto self(Node* node) {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, Node>) {
    return c10::intrusive_ptr<torch::autograd::Node>::unsafe_reclaim_from_nonowning(node);
  } else {
    return node->shared_from_this();
  }
}

}  // namespace nnk
