// The plain call of a form that Python describes (nnkernels/autograd/route.py), forward and backward, by recorded
// plans.
#pragma once

#include <Python.h>

#include "plan.h"

namespace nnk {

// The outputs by a forward plan. `wanted` has a bit for each tensor that is to get a gradient from the node that it
// makes; what that keeps is added to `kept`, if there is one.
Tensors outputs_of(const std::shared_ptr<const Plan>& plan, const Tensors& tensors, uint64_t wanted,
                   Tensors* kept = nullptr);

// As Python returns them: the only one, or a tuple.
PyObject* wrapped(const Tensors& outputs);

// call(form, *tensors) -> Tensor, or a tuple of several; None for what is no plain call; for one that has no plan yet
// whether to record it.
PyObject* call_form(PyObject*, PyObject* const* args, Py_ssize_t count);

// call_and_kept(form, *tensors) -> the outputs and what backward keeps, two tuples; or as `call`.
PyObject* call_form_and_kept(PyObject*, PyObject* const* args, Py_ssize_t count);

// learn(form, after, name, backward, wanted, tensors, events, results, kept): the plan for such calls from here on;
// `after` is the form of the backward pass that belongs to a forward one, `name` what a profiler shows.
PyObject* learn_form(PyObject*, PyObject* args);

// connect_forms(backward): backward(form, wanted, record, grad, *kept) -> gradients, the Python route.
PyObject* connect_forms(PyObject*, PyObject* python_backward);

}  // namespace nnk
