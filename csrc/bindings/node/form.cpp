#include "form.h"

#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <unordered_map>

#include "node.h"
#include "plan.h"
#include "shortcut.h"

namespace nnk {

using at::Tensor;
using torch::autograd::variable_list;

namespace {

PyObject* g_python_backward = nullptr;

// What is known of the calls with one key. The second one is recorded: sizes that come once only are not worth it.
struct Known {
  std::shared_ptr<const Plan> plan;
  bool record = false, hopeless = false;
};

// Sizes that change with every call must not fill the memory: a full table starts anew.
class Plans {
 public:
  Known find(Key key) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (plans_.size() >= kMost) plans_.clear();
    const auto [found, is_new] = plans_.try_emplace(std::move(key));
    const Known known = found->second;
    found->second.record = !found->second.plan && !found->second.hopeless;
    return known;
  }

  void learn(Key key, std::shared_ptr<const Plan> plan) {
    std::lock_guard<std::mutex> lock(mutex_);
    const bool hopeless = !plan;
    plans_[std::move(key)] = {std::move(plan), false, hopeless};
  }

 private:
  static constexpr size_t kMost = 8192;
  std::mutex mutex_;
  std::unordered_map<Key, Known, HashOfKey> plans_;
};

Plans& plans() {
  static Plans& all = *new Plans;  // outlives the threads that may still run at exit
  return all;
}

// `wanted` has a bit for each tensor that is to get a gradient.
Key key_of(int64_t form, bool backward, uint64_t wanted, const Tensors& tensors) {
  Key key;
  key.words.push_back(form << 1 | backward);
  key.words.push_back(int64_t(wanted));
  for (size_t i = 0; i < tensors.size(); ++i) {
    key.add(tensors[i]);
    // A tensor that is given twice is one slot of the plan.
    for (size_t j = 0; j < i; ++j) {
      if (tensors[i].defined() && tensors[i].is_same(tensors[j])) key.words.push_back(-2 - int64_t(j));
    }
  }
  return key;
}

// The gradients from Python: differentiable ones where a graph of them is asked for, and whatever is no plain call.
variable_list python_gradients(int64_t form, uint64_t wanted, bool record, const Tensors& grads_and_kept,
                               size_t count) {
  PyLock lock;
  py::tuple arguments(3 + grads_and_kept.size());
  arguments[0] = py::int_(form);
  arguments[1] = py::int_(wanted);
  arguments[2] = py::bool_(record);
  for (size_t i = 0; i < grads_and_kept.size(); ++i) {
    arguments[3 + i] = py::reinterpret_steal<py::object>(THPVariable_Wrap(grads_and_kept[i]));
  }
  const py::object found = py::reinterpret_steal<py::object>(PyObject_CallObject(g_python_backward, arguments.ptr()));
  if (!found) throw python_error();
  variable_list gradients(count);
  size_t at = 0;
  for (py::handle one : found) {
    if (!one.is_none()) gradients.at(at) = THPVariable_Unpack(one.ptr());
    ++at;
  }
  return gradients;
}

bool none_is_defined(const variable_list& grads) {
  return std::none_of(grads.begin(), grads.end(), [](const Tensor& grad) { return grad.defined(); });
}

bool is_result(const Plan& plan, const Place& place) {
  return std::find(plan.results.begin(), plan.results.end(), place) != plan.results.end();
}

struct FormBackward : torch::autograd::Node {
  std::shared_ptr<const Plan> forward;
  int64_t form = 0;
  size_t inputs = 0;
  std::vector<torch::autograd::SavedVariable> kept;

  uint64_t wanted() const {
    uint64_t bits = 0;
    for (size_t i = 0; i < inputs; ++i) bits |= uint64_t(task_should_compute_output(i)) << i;
    return bits;
  }

  Tensors unpacked(const variable_list& grads) {
    Tensors tensors(grads.begin(), grads.end());
    for (size_t i = 0; i < kept.size(); ++i) {
      tensors.push_back(kept[i].unpack(self(this)));
      const Kind& kind = forward->kinds[i];
      TORCH_CHECK(kind.describes(tensors.back()), "nnkernels: a tensor that was saved for backward came back as ",
                  Kind(tensors.back()), ", it was ", kind,
                  "; saved_tensors_hooks have to restore it, and its .data may not be exchanged");
    }
    return tensors;
  }

  variable_list apply(variable_list&& grads) override {
    if (none_is_defined(grads)) return variable_list(inputs);
    const Tensors tensors = unpacked(grads);
    const uint64_t bits = wanted();
    bool plain = !at::GradMode::is_enabled() && context_is_plain();
    for (const Tensor& t : tensors) plain = plain && (!t.defined() || (has_plain_data(t) && !has_tangent(t)));
    const Known known = plain ? plans().find(key_of(form, true, bits, tensors)) : Known{};
    if (!known.plan) return python_gradients(form, bits, known.record, tensors, inputs);
    const Tensors found = known.plan->run(tensors);
    variable_list gradients;
    for (const Place& place : known.plan->results) gradients.push_back(at_place(place, found));
    return gradients;
  }

  void release_variables() override {
    for (auto& one : kept) one.reset_data();
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(form);
    args.collect(int64_t(inputs));
    for (size_t i = 0; i < kept.size(); ++i) args.collect(kept[i], /*is_output=*/is_result(*forward, forward->kept[i]));
  }

  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& saved) override;

  std::string name() const override { return forward->name + "Backward"; }
};

// What compiled autograd traces in place of a node: the Python route.
variable_list traced_backward(const variable_list& grads, const std::vector<c10::IValue>& packed) {
  torch::dynamo::autograd::PackedArgs args(packed);
  const auto form = args.unpack<int64_t>(), wanted = args.unpack<int64_t>(), inputs = args.unpack<int64_t>();
  const auto kept = args.unpack<std::vector<Tensor>>();
  if (none_is_defined(grads)) return variable_list(inputs);
  Tensors tensors(grads.begin(), grads.end());
  tensors.append(kept.begin(), kept.end());
  return python_gradients(form, uint64_t(wanted), /*record=*/false, tensors, size_t(inputs));
}

variable_list FormBackward::apply_with_saved(const variable_list& grads,
                                             torch::dynamo::autograd::SwapSavedVariables& saved) {
  namespace compiled = torch::dynamo::autograd;
  uint64_t bits = 0;
  for (size_t i = 0; i < inputs; ++i) bits |= uint64_t(next_edge(i).is_valid()) << i;
  for (auto& one : kept) saved.before(one);
  compiled::PackedArgs packed;
  packed.pack(form);
  packed.pack(int64_t(bits));
  packed.pack(int64_t(inputs));
  std::vector<Tensor> tensors;
  for (const auto& one : kept) tensors.push_back(one.unpack(self(this)));
  packed.pack(tensors);
  const auto& compiler = compiled::getPyCompilerInterface();
  static const std::string bound = compiler->bind_function(  // a name can be bound once only
      saved.get_py_compiler(), "NNKernelsFormBackward", traced_backward,
      {at::IntType::get(), at::IntType::get(), at::IntType::get(), at::ListType::ofTensors()});
  auto found =
      compiler->call_function(saved.get_py_compiler(), "apply_functional", bound, grads, std::move(packed).vec(),
                              compiled::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
                                  compiled::get_input_metadata(next_edges())));
  for (auto& one : kept) saved.after(one);
  return found;
}

}  // namespace

Tensors outputs_of(const std::shared_ptr<const Plan>& plan, const Tensors& tensors, uint64_t wanted, Tensors* kept) {
  Tensors outputs;
  {
    pybind11::gil_scoped_release unlocked;
    const Shown shown(
        plan->name, [&] { return std::vector<c10::IValue>(tensors.begin(), tensors.end()); },
        [&] { return wanted != 0; });
    const Tensors found = plan->run(tensors);
    for (const Place& place : plan->results) outputs.push_back(at_place(place, found));
    if (wanted) {
      auto node = make_node<FormBackward>();
      torch::autograd::edge_list edges;
      for (const Tensor& t : tensors) {
        edges.push_back(t.defined() ? torch::autograd::impl::gradient_edge(t) : torch::autograd::Edge());
      }
      node->set_next_edges(std::move(edges));
      node->forward = plan;
      node->form = plan->backward;
      node->inputs = tensors.size();
      for (const Tensor& output : outputs) torch::autograd::set_history(output, node);
      for (const Place& place : plan->kept) {
        const auto result = std::find(plan->results.begin(), plan->results.end(), place);
        const bool is_output = result != plan->results.end();
        const Tensor one = is_output ? outputs[result - plan->results.begin()] : at_place(place, found);
        if (kept) kept->push_back(one);
        node->kept.emplace_back(one, is_output);
      }
    }
  }
  note_served(plan, tensors, wanted, outputs);
  return outputs;
}

namespace {

py::tuple in_tuple(const Tensors& tensors) {
  py::tuple all(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    all[i] = py::reinterpret_steal<py::object>(THPVariable_Wrap(tensors[i]));
  }
  return all;
}

PyObject* call_by_plan(PyObject* const* args, Py_ssize_t count, bool tells_kept) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count >= 2, "call() takes a form and its tensors, got ", count, " arguments");
  note_call();
  const int64_t form = PyLong_AsLongLong(args[0]);
  if (form == -1 && PyErr_Occurred()) throw python_error();
  if (form < 0 || !context_is_plain() || at::impl::torch_function_mode_enabled()) Py_RETURN_NONE;
  Tensors tensors;
  uint64_t wanted = 0;
  const bool records = at::GradMode::is_enabled();
  for (Py_ssize_t i = 1; i < count; ++i) {
    if (args[i] == Py_None) {
      tensors.emplace_back();
      continue;
    }
    if (!THPVariable_CheckExact(args[i])) Py_RETURN_NONE;
    const Tensor& t = THPVariable_Unpack(args[i]);
    if (!has_plain_data(t) || has_tangent(t)) Py_RETURN_NONE;
    if (records && t.requires_grad()) wanted |= uint64_t(1) << (i - 1);
    tensors.push_back(t);
  }
  const Known known = plans().find(key_of(form, false, wanted, tensors));
  if (!known.plan) return PyBool_FromLong(known.record);
  if (!tells_kept) return wrapped(outputs_of(known.plan, tensors, wanted));
  Tensors kept;
  const Tensors outputs = outputs_of(known.plan, tensors, wanted, &kept);
  return py::make_tuple(in_tuple(outputs), in_tuple(kept)).release().ptr();
  END_HANDLE_TH_ERRORS
}

}  // namespace

PyObject* wrapped(const Tensors& outputs) {
  return outputs.size() == 1 ? THPVariable_Wrap(outputs[0]) : in_tuple(outputs).release().ptr();
}

PyObject* call_form(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return call_by_plan(args, count, /*tells_kept=*/false);
}

PyObject* call_form_and_kept(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return call_by_plan(args, count, /*tells_kept=*/true);
}

PyObject* learn_form(PyObject*, PyObject* args) {
  HANDLE_TH_ERRORS
  long long form = 0, after = 0;
  unsigned long long wanted = 0;
  int backward = 0;
  const char* name = nullptr;
  PyObject *given = nullptr, *events = nullptr, *results = nullptr, *kept = nullptr;
  if (!PyArg_ParseTuple(args, "LLspKOOOO", &form, &after, &name, &backward, &wanted, &given, &events, &results, &kept))
    return nullptr;
  Tensors tensors;
  for (py::handle one : py::reinterpret_borrow<py::tuple>(given)) {
    tensors.push_back(one.is_none() ? Tensor() : THPVariable_Unpack(one.ptr()));
  }
  auto plan = plan_from(tensors, events, results, kept);
  if (plan) {
    plan->backward = after;
    plan->name = name;
  }
  plans().learn(key_of(form, backward, wanted, tensors), std::move(plan));
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

PyObject* connect_forms(PyObject*, PyObject* python_backward) {
  Py_INCREF(python_backward);
  Py_XSETREF(g_python_backward, python_backward);
  Py_RETURN_NONE;
}

}  // namespace nnk
