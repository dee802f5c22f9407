#include "plan.h"

#include <ATen/core/List.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/python/pybind_utils.h>

#include <cstring>
#include <unordered_map>

#include "driver.h"

namespace nnk {

using at::Tensor;

void Key::add(const Tensor& t) {
  if (!t.defined()) {
    words.push_back(-1);
    return;
  }
  const bool aligned = reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0;
  words.push_back(int64_t(t.dim()) << 32 | int64_t(t.scalar_type()) << 24 | int64_t(t.device().type()) << 16 |
                  int64_t(uint8_t(t.device().index())) << 8 | aligned);
  for (int64_t size : t.sizes()) words.push_back(size);
  for (int64_t stride : t.strides()) words.push_back(stride);
}

size_t HashOfKey::operator()(const Key& key) const {
  uint64_t hash = 0xcbf29ce484222325u;
  for (int64_t word : key.words) {
    hash = (hash ^ uint64_t(word)) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
  }
  return hash;
}

Kind::Kind(const Tensor& t) {
  if (!t.defined()) return;
  sizes = t.sizes().vec();
  type = t.scalar_type();
  device = t.device();
}

bool Kind::describes(const Tensor& t) const {
  if (!t.defined() || !type) return t.defined() == type.has_value();
  return t.sizes() == c10::IntArrayRef(sizes) && t.scalar_type() == *type && t.device() == device;
}

std::ostream& operator<<(std::ostream& out, const Kind& kind) {
  if (!kind.type) return out << "nothing";
  return out << *kind.type << " of shape " << c10::IntArrayRef(kind.sizes) << " on " << kind.device;
}

Tensor at_place(const Place& place, const Tensors& tensors) {
  if (place.slot < 0) return {};
  const Tensor& root = tensors[place.slot];
  if (place.whole) return root;
  Tensor view = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(root.storage()),
                                                         root.key_set(), place.type);
  const int64_t first = root.storage_offset() * int64_t(root.itemsize()) + place.offset;
  view.unsafeGetTensorImpl()->set_sizes_and_strides(place.sizes, place.strides, first / int64_t(place.type.itemsize()));
  return view;
}

namespace {

void call(const Step& step, Tensors& tensors) {
  std::vector<c10::IValue> stack = step.stack;
  for (const auto& hole : step.holes) {
    Tensor tensor = at_place(hole.place, tensors);
    if (hole.element < 0) {
      stack[hole.argument] = std::move(tensor);
    } else {
      if (hole.element == 0) stack[hole.argument] = c10::List<Tensor>();
      stack[hole.argument].toTensorList().push_back(std::move(tensor));
    }
  }
  step.op->callBoxed(&stack);
  size_t at = 0;
  const auto take = [&](Tensor result) {
    if (step.results[at] >= 0) tensors[step.results[at]] = std::move(result);
    ++at;
  };
  for (c10::IValue& result : stack) {
    if (result.isTensorList()) {
      for (const Tensor& one : result.toTensorVector()) take(one);
    } else {
      take(std::move(result).toTensor());
    }
  }
}

void launch(const Step& step, const Tensors& tensors, void* stream) {
  constexpr size_t most = 64;
  uint64_t values[most];
  void* pointers[most];
  size_t count = 0;
  for (const Argument& argument : step.arguments) {
    values[count] = argument.slot < 0 ? argument.bits
                                      : reinterpret_cast<uint64_t>(tensors[argument.slot].data_ptr()) + argument.offset;
    pointers[count] = &values[count];
    ++count;
  }
  driver::launch(step.function, step.grid, step.threads, step.shared, stream, pointers);
}

}  // namespace

Tensors Plan::run(const Tensors& given) const {
  // The steps were recorded below autograd and autocast, and run there.
  at::AutoDispatchBelowADInplaceOrView below;
  c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  std::optional<c10::DeviceGuard> guard;
  void* stream = nullptr;
  if (device.is_cuda()) {
    guard.emplace(device);
    stream = driver::current_stream(device.index());
  }
  Tensors tensors(given.begin(), given.end());
  tensors.resize(slots);
  for (const Step& step : steps) {
    switch (step.kind) {
      case Step::allocate: tensors[step.slot] = at::empty_strided(step.sizes, step.strides, step.options); break;
      case Step::call: call(step, tensors); break;
      case Step::launch: launch(step, tensors, stream); break;
    }
  }
  return tensors;
}

namespace {

class Builder {
 public:
  explicit Builder(const Tensors& inputs) : plan_(std::make_shared<Plan>()) {
    plan_->inputs = plan_->slots = static_cast<int>(inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!inputs[i].defined()) continue;
      if (inputs[i].is_cuda()) plan_->device = inputs[i].device();
      known_.emplace(inputs[i].unsafeGetTensorImpl(), Place{int(i)});
    }
  }

  bool add(py::handle event) {
    const py::tuple parts = py::reinterpret_borrow<py::tuple>(event);
    return parts[0].cast<std::string>() == "op" ? add_op(parts) : add_launch(parts);
  }

  bool place_all(PyObject* tensors, std::vector<Place>* places) {
    for (py::handle one : py::reinterpret_borrow<py::tuple>(tensors)) {
      if (one.is_none()) {
        places->emplace_back();
        continue;
      }
      const Place* place = find(THPVariable_Unpack(one.ptr()));
      if (!place) return false;
      places->push_back(*place);
    }
    return true;
  }

  std::shared_ptr<Plan> plan() { return plan_; }

 private:
  const Place* find(const Tensor& t) {
    const auto found = known_.find(t.unsafeGetTensorImpl());
    return found == known_.end() ? nullptr : &found->second;
  }

  // What a result is: an argument, a view of one, or a tensor of its own, which gets a slot.
  int place(const Tensor& result, const std::vector<Tensor>& arguments) {
    if (find(result)) return -1;
    for (const Tensor& argument : arguments) {
      if (!argument.storage().is_alias_of(result.storage())) continue;
      Place view = *find(argument);
      const auto distance = [](const Tensor& t) { return t.storage_offset() * int64_t(t.itemsize()); };
      view.offset += distance(result) - distance(argument);
      view.whole = false;
      view.sizes = result.sizes().vec();
      view.strides = result.strides().vec();
      view.type = result.dtype();
      known_.emplace(result.unsafeGetTensorImpl(), view);
      return -1;
    }
    known_.emplace(result.unsafeGetTensorImpl(), Place{plan_->slots});
    return plan_->slots++;
  }

  bool add_op(const py::tuple& parts) {
    const auto name = parts[1].cast<std::string>();
    auto op = c10::Dispatcher::singleton().findSchema({name, parts[2].cast<std::string>()});
    if (!op) return false;
    Step step{Step::call};
    torch::jit::ToIValueAllowNumbersAsTensors numbers(true);  // as eager takes x + 1
    step.stack = torch::jit::createStackForSchema(op->schema(), torch::jit::tuple_slice(parts[3].cast<py::tuple>()),
                                                  parts[4].cast<py::kwargs>(), std::nullopt);
    std::vector<Tensor> arguments;
    for (size_t i = 0; i < step.stack.size(); ++i) {
      if (step.stack[i].isTensor() && step.stack[i].toTensor().defined()) {
        const Tensor given = std::move(step.stack[i]).toTensor();
        if (!fill(step, int(i), -1, given, arguments)) return false;
      } else if (step.stack[i].isTensorList()) {
        int element = 0;
        for (const Tensor& t : step.stack[i].toTensorVector()) {
          if (!fill(step, int(i), element++, t, arguments)) return false;
        }
        step.stack[i] = c10::IValue();
      } else if (step.stack[i].isOptionalTensorList()) {
        return false;
      }
    }
    const bool writes = op->schema().is_mutable();
    bool owns = false;
    Tensor first;
    for (py::handle one : parts[5].cast<py::tuple>()) {
      if (!THPVariable_Check(one.ptr())) return false;
      const Tensor& result = THPVariable_Unpack(one.ptr());
      if (!first.defined()) first = result;
      step.results.push_back(place(result, arguments));
      owns |= step.results.back() >= 0;
    }
    if (!owns && !writes) return true;  // views, which are resolved where they are read
    const bool allocates = name.rfind("aten::empty", 0) == 0 || name.rfind("aten::new_empty", 0) == 0;
    if (allocates && owns) {
      Step bare{Step::allocate};
      bare.slot = step.results[0];
      bare.sizes = first.sizes().vec();
      bare.strides = first.strides().vec();
      bare.options = first.options().requires_grad(false);
      step = std::move(bare);
    } else {
      step.op = op;
    }
    plan_->steps.push_back(std::move(step));
    return true;
  }

  bool fill(Step& step, int argument, int element, const Tensor& t, std::vector<Tensor>& arguments) {
    const Place* place = find(t);
    if (!place) return false;
    step.holes.push_back({argument, element, *place});
    arguments.push_back(t);
    return true;
  }

  bool add_launch(const py::tuple& parts) {
    Step step{Step::launch};
    step.function = reinterpret_cast<void*>(parts[1].cast<uint64_t>());
    const auto grid = parts[2].cast<std::vector<int64_t>>();
    for (int i = 0; i < 3; ++i) step.grid[i] = i < int(grid.size()) ? unsigned(grid[i]) : 1u;
    step.threads = 32 * parts[3].cast<unsigned>();
    step.shared = parts[4].cast<unsigned>();
    for (py::handle one : parts[5].cast<py::tuple>()) {
      const py::tuple argument = py::reinterpret_borrow<py::tuple>(one);
      const auto type = argument[0].cast<std::string>();
      Argument found{-1, 0, 0};
      if (type[0] == '*') {
        if (!argument[1].is_none()) {
          if (!THPVariable_Check(argument[1].ptr())) return false;
          const Place* place = find(THPVariable_Unpack(argument[1].ptr()));
          if (!place) return false;
          found.slot = place->slot;
          found.offset = place->offset;
        }
      } else if (type == "fp32") {
        const float number = argument[1].cast<float>();
        std::memcpy(&found.bits, &number, sizeof number);
      } else if (type == "fp64") {
        const double number = argument[1].cast<double>();
        std::memcpy(&found.bits, &number, sizeof number);
      } else if (type[0] == 'i') {
        found.bits = uint64_t(argument[1].cast<int64_t>());
      } else if (type == "u1" || type[0] == 'u') {
        found.bits = argument[1].cast<uint64_t>();
      } else {
        return false;
      }
      step.arguments.push_back(found);
    }
    if (step.arguments.size() > 64) return false;
    if (step.grid[0] && step.grid[1] && step.grid[2]) plan_->steps.push_back(std::move(step));
    return true;
  }

  std::shared_ptr<Plan> plan_;
  std::unordered_map<const c10::TensorImpl*, Place> known_;
};

}  // namespace

std::shared_ptr<Plan> plan_from(const Tensors& inputs, PyObject* events, PyObject* results, PyObject* kept) {
  if (events == Py_None) return nullptr;
  Builder builder(inputs);
  for (py::handle event : py::reinterpret_borrow<py::list>(events)) {
    if (!builder.add(event)) return nullptr;
  }
  std::shared_ptr<Plan> plan = builder.plan();
  if (!builder.place_all(results, &plan->results) || !builder.place_all(kept, &plan->kept)) return nullptr;
  for (py::handle one : py::reinterpret_borrow<py::tuple>(kept)) {
    plan->kinds.emplace_back(one.is_none() ? Tensor() : THPVariable_Unpack(one.ptr()));
  }
  return plan;
}

}  // namespace nnk
