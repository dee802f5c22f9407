// A public function whose calls, once they are known to end in a plan, go there without entering Python.
//
// The first calls of a kind run the function, which checks its arguments and resolves them to a form. A call that did
// no more than hand its own tensors to one plan and return its value is remembered by everything that the function
// could have looked at: its arguments, the tensors' shapes, strides, types, devices and alignment, and torch's modes.
#pragma once

#include <Python.h>

#include "plan.h"

namespace nnk {

// Tells the shortcut that runs, if any, that its function calls a form, and which plan has served it.
void note_call();
void note_served(const std::shared_ptr<const Plan>& plan, const Tensors& tensors, uint64_t wanted,
                 const Tensors& outputs);

// shortcut(function) -> an object that is called as the function is.
PyObject* make_shortcut(PyObject*, PyObject* function);

}  // namespace nnk
