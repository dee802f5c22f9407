// What one call of a form does, recorded once from Python and run from C++ afterwards.
//
// A plan holds for calls alike in everything that Python could have looked at: the form and its constants, and each
// tensor's shape, strides, type, device and alignment. Its steps allocate, call operators and launch compiled kernels;
// views cost nothing but a pointer's offset where a kernel reads them.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <Python.h>
#include <c10/util/SmallVector.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace nnk {

using Tensors = c10::SmallVector<at::Tensor, 8>;

// Calls with equal keys are served by one plan.
struct Key {
  c10::SmallVector<int64_t, 64> words;

  void add(const at::Tensor& t);
  bool operator==(const Key& other) const { return words == other.words; }
};

struct HashOfKey {
  size_t operator()(const Key& key) const;
};

// A tensor of the call: one of the slots, or a view of it.
struct Place {
  int slot = -1;  // -1: none
  bool whole = true;
  int64_t offset = 0;  // in bytes, from the slot's first element
  std::vector<int64_t> sizes, strides;
  caffe2::TypeMeta type;

  bool operator==(const Place& other) const {
    return slot == other.slot && whole == other.whole && offset == other.offset && sizes == other.sizes &&
           strides == other.strides && type == other.type;
  }
};

struct Argument {
  int slot;  // -1: a number
  int64_t offset;
  uint64_t bits;
};

struct Step {
  enum Kind { allocate, call, launch } kind;
  int slot = -1;                          // allocate: its result
  std::vector<int64_t> sizes, strides;    // allocate
  at::TensorOptions options;              // allocate
  std::optional<c10::OperatorHandle> op;  // call
  std::vector<c10::IValue> stack;         // call: arguments, tensors being filled in
  struct Hole {
    int argument, element;  // -1: no list
    Place place;
  };
  std::vector<Hole> holes;  // call
  // Call: the slot of each tensor among the results, lists taken apart; -1 where it is an argument.
  std::vector<int> results;
  void* function = nullptr;  // launch
  unsigned grid[3] = {}, threads = 0, shared = 0;
  std::vector<Argument> arguments;
};

// What may not change of a tensor between forward and backward.
struct Kind {
  std::vector<int64_t> sizes;
  std::optional<at::ScalarType> type;  // none: no tensor
  c10::Device device = c10::kCPU;

  explicit Kind(const at::Tensor& t);
  bool describes(const at::Tensor& t) const;
};

std::ostream& operator<<(std::ostream& out, const Kind& kind);

struct Plan {
  int inputs = 0, slots = 0;
  c10::Device device = c10::kCPU;
  std::vector<Step> steps;
  std::vector<Place> results;  // of forward the outputs; of backward a gradient for each tensor
  std::vector<Place> kept;     // of forward, what backward gets
  std::vector<Kind> kinds;     // what these are
  int64_t backward = 0;        // of forward, the number by which Python knows backward
  std::string name;            // by which a profiler shows it

  // The slots' tensors; the first ones are `inputs`.
  Tensors run(const Tensors& inputs) const;
};

// The tensor at a place of a call whose slots hold `tensors`.
at::Tensor at_place(const Place& place, const Tensors& tensors);

// A plan from the events that Python recorded, or null if one of them cannot be repeated from here.
//   ("op", name, overload, args, kwargs, results), ("launch", function, grid, warps, shared, ((type, value), ...))
std::shared_ptr<Plan> plan_from(const Tensors& inputs, PyObject* events, PyObject* results, PyObject* kept);

}  // namespace nnk
