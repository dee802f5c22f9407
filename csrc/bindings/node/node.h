// What the C++ nodes share: which calls are plain ones, and how a node is made and finds itself.
#pragma once

#include <ATen/SequenceNumber.h>
#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>
#include <Python.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

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

// What a profiler shows of a call until the end of its scope. While nobody listens that is a look at an empty list, as
// the dispatcher's for each of torch's operators; `inputs` and `records` (whether a node is made) are not even asked.
class Shown {
 public:
  template <class Inputs, class Records>
  Shown(const std::string& name, const Inputs& inputs, const Records& records) {
    auto listeners = at::getStepCallbacksUnlessEmpty(at::RecordScope::FUNCTION);
    if (C10_LIKELY(!listeners.has_value())) return;
    guard_.emplace(std::move(*listeners));
    const int64_t number = records() ? int64_t(at::sequence_number::peek()) : -1;
    if (guard_->needsInputs()) {
      const std::vector<c10::IValue> given = inputs();
      guard_->before(name, &given, number);
    } else {
      guard_->before(name, number);
    }
  }

 private:
  std::optional<at::RecordFunction> guard_;
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
