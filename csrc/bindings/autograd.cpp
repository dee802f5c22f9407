// The plain call, forward and backward, as a C++ autograd node: what eager pays for its own activations, and no more.
//
// Compiled against the torch that is installed and used only while that torch runs, since autograd has no stable ABI.
// Whatever is not a plain call (subclasses, transforms, modes, tangents, a graph of the gradient) is handed to the
// Python routes of nnkernels/autograd/, which stay the truth for everything.
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "../geometry.h"
#include "../kernels.h"
#include "node/form.h"
#include "node/node.h"
#include "node/shortcut.h"

namespace {

using at::Tensor;
using nnk::context_is_plain;
using nnk::make_node;
using nnk::PyLock;
using nnk::self;
using Launch = int (*)(const nnk::Job*, int);

Launch g_cpu = nullptr, g_cuda = nullptr;
PyObject* g_python_backward = nullptr;
std::vector<std::string>& g_names = *new std::vector<std::string>;  // by which a profiler shows the activations

Launch launch_for(const Tensor& x) { return x.is_cpu() ? g_cpu : x.is_cuda() ? g_cuda : nullptr; }

std::optional<nnk::Scalar> scalar_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kDouble: return nnk::Scalar::f64;
    case at::kFloat: return nnk::Scalar::f32;
    case at::kBFloat16: return nnk::Scalar::bf16;
    case at::kHalf: return nnk::Scalar::f16;
    default: return std::nullopt;
  }
}

bool is_plain(const Tensor& x) { return nnk::has_plain_data(x) && launch_for(x) && scalar_of(x); }

struct Call {
  int64_t activation;
  double a, b;
};

template <size_t N>
bool launch(nnk::Pass pass, const Call& call, const std::array<const Tensor*, N>& operands) {
  const Tensor& x = *operands[N - 2];
  const int64_t* strides[N];
  for (size_t i = 0; i < N; ++i) strides[i] = operands[i]->strides().data();
  nnk::Geometry geometry;
  if (!nnk::plan(static_cast<int>(x.dim()), x.sizes().data(), strides, N, &geometry)) return false;
  if (geometry.rows * geometry.cols == 0) return true;
  nnk::Job job{pass, static_cast<int>(call.activation), *scalar_of(x), call.a, call.b, geometry.rows, geometry.cols,
               {}};
  for (size_t i = 0; i < N; ++i) job.operands[i] = {operands[i]->data_ptr(), geometry.row_strides[i]};
  const int error = launch_for(x)(&job, x.is_cpu() ? 0 : static_cast<int>(x.get_device()));
  TORCH_CHECK(error == 0, "nnkernels: CUDA error ", error, " when launching a kernel on ", x.device());
  return true;
}

constexpr const char* kIrregular = "nnkernels: no copy lies in rows of adjacent elements, of a tensor of shape ";

Tensor forward(const Call& call, Tensor x) {
  at::AutoDispatchBelowADInplaceOrView below;
  Tensor y = at::empty_like(x);
  if (!launch<2>(nnk::Pass::forward, call, {&x, &y})) {
    x = at::empty_like(x).copy_(x);
    TORCH_CHECK(launch<2>(nnk::Pass::forward, call, {&x, &y}), kIrregular, x.sizes());
  }
  return y;
}

Tensor backward(const Call& call, Tensor grad, Tensor x) {
  at::AutoDispatchBelowADInplaceOrView below;
  Tensor grad_input = at::empty_like(x);
  if (!launch<3>(nnk::Pass::backward, call, {&grad, &x, &grad_input})) {
    grad = at::empty_like(grad_input).copy_(grad);
    x = at::empty_like(grad_input).copy_(x);
    TORCH_CHECK(launch<3>(nnk::Pass::backward, call, {&grad, &x, &grad_input}), kIrregular, x.sizes());
  }
  return grad_input;
}

// The Python route's differentiable gradient.
Tensor python_backward(const Call& call, const Tensor& grad, const Tensor& kept) {
  PyLock lock;
  PyObject* result = PyObject_CallFunction(g_python_backward, "NNLdd", THPVariable_Wrap(grad), THPVariable_Wrap(kept),
                                           static_cast<long long>(call.activation), call.a, call.b);
  if (!result) throw python_error();
  Tensor grad_input = THPVariable_Unpack(result);
  Py_DECREF(result);
  return grad_input;
}

// What compiled autograd traces in place of a node: the Python route, which composes torch's operations.
torch::autograd::variable_list traced_backward(const torch::autograd::variable_list& grads,
                                               const std::vector<c10::IValue>& packed) {
  if (!grads[0].defined()) return {Tensor()};
  torch::dynamo::autograd::PackedArgs args(packed);
  const auto activation = args.unpack<int64_t>();
  const auto a = args.unpack<double>(), b = args.unpack<double>();
  return {python_backward({activation, a, b}, grads[0], args.unpack<Tensor>())};
}

struct ActivationBackward : torch::autograd::Node {
  Call call{};
  bool keeps_output = false;
  torch::autograd::SavedVariable kept;

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    const Tensor& grad = grads[0];
    if (!grad.defined()) return {Tensor()};
    Tensor x = kept.unpack(self(this));
    TORCH_CHECK(grad.sizes() == x.sizes(), "nnkernels: the tensor that was kept for backward has shape ", x.sizes(),
                ", but the gradient has ", grad.sizes(),
                "; a saved-tensor hook or an assignment to .data has replaced it since the forward pass");
    const bool plain = !at::GradMode::is_enabled() && context_is_plain() && is_plain(grad) && is_plain(x) &&
                       grad.scalar_type() == x.scalar_type() && grad.device() == x.device() &&
                       !grad._fw_grad(/*level=*/0).defined() && !x._fw_grad(/*level=*/0).defined();
    return {plain ? backward(call, grad, x) : python_backward(call, grad, x)};
  }

  void release_variables() override { kept.reset_data(); }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(call.activation);
    args.collect(call.a);
    args.collect(call.b);
    args.collect(kept, keeps_output);
  }

  torch::autograd::variable_list apply_with_saved(const torch::autograd::variable_list& grads,
                                                  torch::dynamo::autograd::SwapSavedVariables& saved) override {
    namespace compiled = torch::dynamo::autograd;
    saved.before(kept);
    compiled::PackedArgs packed;
    packed.pack(call.activation);
    packed.pack(call.a);
    packed.pack(call.b);
    packed.pack(kept.unpack(self(this)));
    const auto& compiler = compiled::getPyCompilerInterface();
    static const std::string bound = compiler->bind_function(  // a name can be bound once only
        saved.get_py_compiler(), "NNKernelsActivationBackward", traced_backward,
        {at::IntType::get(), at::FloatType::get(), at::FloatType::get(), at::TensorType::get()});
    auto found = compiler->call_function(
        saved.get_py_compiler(), "apply_functional", bound, grads, std::move(packed).vec(),
        compiled::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
            compiled::get_input_metadata(next_edges())));
    saved.after(kept);
    return found;
  }

  std::string name() const override { return g_names[call.activation] + "Backward"; }
};

Tensor value(const Call& call, const Tensor& x, bool keeps_output) {
  Tensor y = forward(call, x);
  if (torch::autograd::compute_requires_grad(x)) {
    auto node = make_node<ActivationBackward>();
    node->set_next_edges(torch::autograd::collect_next_edges(x));
    node->call = call;
    node->keeps_output = keeps_output;
    torch::autograd::set_history(y, node);
    node->kept = torch::autograd::SavedVariable(keeps_output ? y : x, /*is_output=*/keeps_output);
  }
  return y;
}

// The same into `x` itself. What is kept of the input is a copy that the graph knows, for second derivatives.
Tensor value_in_place(const Call& call, Tensor x, bool keeps_output) {
  const bool records = torch::autograd::compute_requires_grad(x);
  torch::autograd::check_inplace(x, records);
  decltype(make_node<ActivationBackward>()) node;
  Tensor copy;
  if (records) {
    node = make_node<ActivationBackward>();
    node->set_next_edges(torch::autograd::collect_next_edges(x));
    node->call = call;
    node->keeps_output = keeps_output;
    if (!keeps_output) copy = x.clone();
  }
  {
    at::AutoDispatchBelowADInplaceOrView below;
    if (!launch<2>(nnk::Pass::forward, call, {&x, &x})) x.copy_(forward(call, x));
  }
  if (!x.is_inference()) torch::autograd::increment_version(x);
  if (records) {
    torch::autograd::rebase_history(x, node);
    node->kept = keeps_output
                     ? torch::autograd::SavedVariable(x, /*is_output=*/true, /*is_inplace_on_view=*/x.is_view())
                     : torch::autograd::SavedVariable(copy, /*is_output=*/false);
  }
  return x;
}

// apply(x, activation, a, b, keeps_output, inplace) -> Tensor, or None where the call is not a plain one.
PyObject* apply(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 6, "apply() takes 6 arguments, got ", count);
  if (!THPVariable_CheckExact(args[0])) Py_RETURN_NONE;
  const Tensor& x = THPVariable_Unpack(args[0]);
  if (!is_plain(x) || !context_is_plain() || at::impl::torch_function_mode_enabled() ||
      x._fw_grad(/*level=*/0).defined()) {
    Py_RETURN_NONE;
  }
  const Call call{PyLong_AsLong(args[1]), PyFloat_AsDouble(args[2]), PyFloat_AsDouble(args[3])};
  if (PyErr_Occurred()) throw python_error();
  const bool keeps_output = args[4] == Py_True, inplace = args[5] == Py_True;
  // The refusal of a leaf, in the name of the function that was called, is Python's.
  if (inplace && x.is_leaf() && torch::autograd::compute_requires_grad(x)) Py_RETURN_NONE;

  Tensor y;
  {
    pybind11::gil_scoped_release unlocked;
    const nnk::Shown shown(
        g_names[call.activation], [&] { return std::vector<c10::IValue>{x}; },
        [&] { return torch::autograd::compute_requires_grad(x); });
    y = inplace ? value_in_place(call, x, keeps_output) : value(call, x, keeps_output);
  }
  return THPVariable_Wrap(y);
  END_HANDLE_TH_ERRORS
}

// connect(cpu_launch, cuda_launch, python_backward, names): addresses of the libraries' launchers (0 where there is
// none), and for each activation the name of its calls.
PyObject* connect(PyObject*, PyObject* args) {
  HANDLE_TH_ERRORS
  unsigned long long cpu = 0, cuda = 0;
  PyObject *python_backward = nullptr, *names = nullptr;
  if (!PyArg_ParseTuple(args, "KKOO", &cpu, &cuda, &python_backward, &names)) return nullptr;
  g_names = pybind11::cast<std::vector<std::string>>(names);
  g_cpu = reinterpret_cast<Launch>(cpu);
  g_cuda = reinterpret_cast<Launch>(cuda);
  Py_INCREF(python_backward);
  Py_XSETREF(g_python_backward, python_backward);
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

// cached_cast(tensor, dtype): in that type; of a parameter the one copy that torch's autocast makes until it ends.
PyObject* cached_cast(PyObject*, PyObject* args) {
  HANDLE_TH_ERRORS
  PyObject *tensor = nullptr, *dtype = nullptr;
  if (!PyArg_ParseTuple(args, "O!O!", THPVariableClass, &tensor, &THPDtypeType, &dtype)) return nullptr;
  const Tensor& x = THPVariable_Unpack(tensor);
  const auto type = reinterpret_cast<THPDtype*>(dtype)->scalar_type;
  Tensor cast;
  {
    pybind11::gil_scoped_release unlocked;
    cast = at::autocast::cached_cast(type, x, x.device().type());
  }
  return THPVariable_Wrap(cast);
  END_HANDLE_TH_ERRORS
}

PyMethodDef methods[] = {
    {"apply", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(apply)), METH_FASTCALL, nullptr},
    {"connect", connect, METH_VARARGS, nullptr},
    {"call", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(nnk::call_form)), METH_FASTCALL, nullptr},
    {"call_and_kept", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(nnk::call_form_and_kept)),
     METH_FASTCALL, nullptr},
    {"learn", nnk::learn_form, METH_VARARGS, nullptr},
    {"connect_forms", nnk::connect_forms, METH_O, nullptr},
    {"shortcut", nnk::make_shortcut, METH_O, nullptr},
    {"cached_cast", cached_cast, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_autograd", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__autograd() { return PyModule_Create(&module); }
