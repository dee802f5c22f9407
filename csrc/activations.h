// Every activation that the C++ and CUDA kernels know: a struct template named as in the catalogue, and its place here.
//
//   template <class M>                          // M: the arithmetic, see math.h
//   struct name {
//     NNK_HD name(double a, double b);          // the catalogue's constants
//     NNK_HD T value(T x) const, d1(T x) const, d2(T x) const;
//   };
#pragma once

#include "derived.h"
#include "gates.h"
#include "piecewise.h"
#include "smooth.h"

#define NNK_ACTIVATIONS(F) \
  F(sigmoid)               \
  F(tanh)                  \
  F(relu)                  \
  F(relu6)                 \
  F(relu_squared)          \
  F(leaky_relu)            \
  F(elu)                   \
  F(celu)                  \
  F(selu)                  \
  F(silu)                  \
  F(swish)                 \
  F(gelu)                  \
  F(gelu_tanh)             \
  F(gelu_sigmoid)          \
  F(hardsigmoid)           \
  F(hardswish)             \
  F(hardtanh)              \
  F(mish)                  \
  F(softplus)              \
  F(softsign)              \
  F(logsigmoid)            \
  F(threshold)             \
  F(thresholded_relu)      \
  F(softshrink)            \
  F(hardshrink)            \
  F(tanhshrink)            \
  F(softcap)               \
  F(hardmish)              \
  F(starrelu)              \
  F(sqrtsoftplus)          \
  F(identity)

namespace nnk::NNK_ISA {

// grad f'(x), given f'(x).
template <class Activation, class T>
NNK_HD T times_slope(T grad, T slope) {
  if constexpr (__is_base_of(Masking, Activation)) {
    return slope == T(0) ? T(0) : grad * slope;
  } else {
    return underflowing_product(grad, slope);
  }
}

}  // namespace nnk::NNK_ISA
