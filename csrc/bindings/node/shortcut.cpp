#include "shortcut.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/autograd/python_variable.h>

#include <cstring>
#include <unordered_map>

#include "form.h"
#include "node.h"

namespace nnk {

using at::Tensor;

namespace {

// What the call of one shortcut has led to so far.
struct Watch {
  int calls = 0;
  std::shared_ptr<const Plan> plan;
  Tensors tensors;
  uint64_t wanted = 0;
  Tensors outputs;
};

thread_local Watch* g_watch = nullptr;

class Watching {
 public:
  explicit Watching(Watch* watch) : watch_(watch), before_(g_watch) { g_watch = watch; }
  ~Watching() {
    g_watch = before_;
    if (before_) before_->calls += watch_->calls;
  }

 private:
  Watch *watch_, *before_;
};

// The arguments of a call as a key, in which objects that stand for themselves are their addresses.
struct Arguments {
  Key key;
  Tensors tensors;
  c10::SmallVector<PyObject*, 8> named;  // whose addresses are in the key

  // Whether all of them are of kinds that a key can hold.
  bool take(PyObject* args, PyObject* kwargs) {
    key.words.push_back(state());
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args); ++i) {
      if (!add(PyTuple_GET_ITEM(args, i))) return false;
    }
    if (!kwargs) return true;
    PyObject *name = nullptr, *value = nullptr;
    Py_ssize_t at = 0;
    while (PyDict_Next(kwargs, &at, &name, &value)) {
      add_name(name);
      if (!add(value)) return false;
    }
    return true;
  }

 private:
  enum Tag : int64_t { none, no, yes, integer, number, name, sequence, tensor };

  static int64_t state() {
    int64_t word = at::GradMode::is_enabled() | c10::InferenceMode::is_enabled() << 1;
    for (const auto device : {at::kCPU, at::kCUDA}) {
      const bool casts = at::autocast::is_autocast_enabled(device);
      word = word << 9 | (casts ? 1 + int64_t(at::autocast::get_autocast_dtype(device)) : 0);
    }
    return word;
  }

  void add_name(PyObject* one) {
    key.words.push_back(name);
    key.words.push_back(reinterpret_cast<int64_t>(one));
    named.push_back(one);
  }

  bool add_integer(PyObject* one) {
    if (!PyLong_CheckExact(one)) return false;
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(one, &overflow);
    key.words.push_back(integer);
    key.words.push_back(value);
    return overflow == 0;
  }

  // A tensor that comes twice could be the form's in one place and a number that Python has read in the other.
  bool add_tensor(const Tensor& t) {
    if (!has_plain_data(t) || has_tangent(t)) return false;
    for (const Tensor& other : tensors) {
      if (other.is_same(t)) return false;
    }
    key.words.push_back(tensor << 1 | t.requires_grad());
    key.add(t);
    tensors.push_back(t);
    return true;
  }

  bool add(PyObject* one) {
    if (one == Py_None || one == Py_True || one == Py_False) {
      key.words.push_back(one == Py_None ? none : one == Py_True ? yes : no);
      return true;
    }
    if (THPVariable_CheckExact(one)) return add_tensor(THPVariable_Unpack(one));
    if (PyFloat_CheckExact(one)) {
      const double value = PyFloat_AS_DOUBLE(one);
      int64_t bits = 0;
      std::memcpy(&bits, &value, sizeof bits);
      key.words.push_back(number);
      key.words.push_back(bits);
      return true;
    }
    if (PyUnicode_CheckExact(one) || THPDtype_Check(one) || PyFunction_Check(one)) {
      add_name(one);
      return true;
    }
    if (PyTuple_Check(one) || PyList_CheckExact(one)) {
      const Py_ssize_t count = PySequence_Fast_GET_SIZE(one);
      key.words.push_back(sequence);
      key.words.push_back(count);
      for (Py_ssize_t i = 0; i < count; ++i) {
        if (!add_integer(PySequence_Fast_GET_ITEM(one, i))) return false;
      }
      return true;
    }
    return add_integer(one);
  }
};

struct Remembered {
  std::shared_ptr<const Plan> plan;
  uint64_t wanted;
  c10::SmallVector<int, 8> positions;  // of the plan's tensors among the call's; -1: none
  std::vector<py::object> named;       // kept, so that no other object gets an address of the key
};

struct Shortcut {
  PyObject_HEAD PyObject* function;
  std::unordered_map<Key, std::shared_ptr<const Remembered>, HashOfKey>* known;
};

// Sizes that change with every call must not fill the memory: a full table starts anew.
constexpr size_t kMostShortcuts = 1024;

// Whether a function's result is what the form gave, and nothing else.
bool returns(PyObject* result, const Tensors& outputs) {
  const auto is = [](PyObject* one, const Tensor& output) {
    return THPVariable_Check(one) && THPVariable_Unpack(one).is_same(output);
  };
  if (outputs.size() == 1) return is(result, outputs[0]);
  if (!PyTuple_CheckExact(result) || PyTuple_GET_SIZE(result) != Py_ssize_t(outputs.size())) return false;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!is(PyTuple_GET_ITEM(result, i), outputs[i])) return false;
  }
  return true;
}

std::shared_ptr<const Remembered> learned(const Arguments& given, const Watch& watch, PyObject* result) {
  if (watch.calls != 1 || !watch.plan || !returns(result, watch.outputs)) return nullptr;
  auto found = std::make_shared<Remembered>(Remembered{watch.plan, watch.wanted, {}, {}});
  size_t used = 0;
  for (const Tensor& t : watch.tensors) {
    int position = -1;
    for (size_t i = 0; t.defined() && i < given.tensors.size(); ++i) {
      if (given.tensors[i].is_same(t)) position = int(i);
    }
    if (t.defined() && position < 0) return nullptr;
    used += t.defined();
    found->positions.push_back(position);
  }
  if (used != given.tensors.size()) return nullptr;  // what is no operand may be a number, which Python has read
  for (PyObject* one : given.named) found->named.push_back(py::reinterpret_borrow<py::object>(one));
  return found;
}

PyObject* call_shortcut(PyObject* self, PyObject* args, PyObject* kwargs) {
  HANDLE_TH_ERRORS
  auto* shortcut = reinterpret_cast<Shortcut*>(self);
  Arguments given;
  if (!context_is_plain() || at::impl::torch_function_mode_enabled() || !given.take(args, kwargs)) {
    return PyObject_Call(shortcut->function, args, kwargs);
  }
  const auto known = shortcut->known->find(given.key);
  if (known != shortcut->known->end()) {
    note_call();
    const std::shared_ptr<const Remembered> remembered = known->second;
    Tensors tensors;
    for (int position : remembered->positions) tensors.push_back(position < 0 ? Tensor() : given.tensors[position]);
    return wrapped(outputs_of(remembered->plan, tensors, remembered->wanted));
  }
  Watch watch;
  PyObject* result = nullptr;
  {
    Watching until_it_returns(&watch);
    result = PyObject_Call(shortcut->function, args, kwargs);
  }
  if (!result) return nullptr;
  if (auto found = learned(given, watch, result)) {
    if (shortcut->known->size() >= kMostShortcuts) shortcut->known->clear();
    shortcut->known->insert_or_assign(std::move(given.key), std::move(found));
  }
  return result;
  END_HANDLE_TH_ERRORS
}

void destroy_shortcut(PyObject* self) {
  auto* shortcut = reinterpret_cast<Shortcut*>(self);
  Py_XDECREF(shortcut->function);
  delete shortcut->known;
  PyTypeObject* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

PyTypeObject* type_of_shortcuts() {
  static PyType_Slot slots[] = {{Py_tp_call, reinterpret_cast<void*>(call_shortcut)},
                                {Py_tp_dealloc, reinterpret_cast<void*>(destroy_shortcut)},
                                {0, nullptr}};
  static PyType_Spec spec = {"nnkernels.Shortcut", sizeof(Shortcut), 0, Py_TPFLAGS_DEFAULT, slots};
  static PyObject* type = PyType_FromSpec(&spec);
  return reinterpret_cast<PyTypeObject*>(type);
}

}  // namespace

void note_call() {
  if (g_watch) ++g_watch->calls;
}

void note_served(const std::shared_ptr<const Plan>& plan, const Tensors& tensors, uint64_t wanted,
                 const Tensors& outputs) {
  if (!g_watch) return;
  g_watch->plan = plan;
  g_watch->tensors = tensors;
  g_watch->wanted = wanted;
  g_watch->outputs = outputs;
}

PyObject* make_shortcut(PyObject*, PyObject* function) {
  PyTypeObject* type = type_of_shortcuts();
  if (!type) return nullptr;
  auto* made = reinterpret_cast<Shortcut*>(type->tp_alloc(type, 0));
  if (!made) return nullptr;
  Py_INCREF(function);
  made->function = function;
  made->known = new std::unordered_map<Key, std::shared_ptr<const Remembered>, HashOfKey>;
  return reinterpret_cast<PyObject*>(made);
}

}  // namespace nnk
