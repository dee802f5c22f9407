// The operators of the stateless activations, which the CPU and the CUDA library share.
#pragma once

#include <tuple>

#include "tensors.h"

namespace nnk {

// Defined by each library: runs the job on the device that the tensors live on.
void run(const Job& job, int device_index);

Tensor forward(const Tensor& x, int64_t activation, double a, double b);

// Writes x.
void forward_(Tensor x, int64_t activation, double a, double b);

Tensor backward(const Tensor& grad, const Tensor& x, int64_t activation, double a, double b);

// The gradients of grad and x, for the one of backward's result.
std::tuple<Tensor, Tensor> double_backward(const Tensor& grad_grad, const Tensor& grad, const Tensor& x,
                                           int64_t activation, double a, double b);

}  // namespace nnk
