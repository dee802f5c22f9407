// A few numbers of any type, one at a time and in double: of what belongs to a whole call, not to its elements.
#pragma once

#include "../kernels.h"

namespace nnk {

struct Numbers {
  void* data = nullptr;
  Scalar scalar = Scalar::f32;

  explicit operator bool() const { return data != nullptr; }

  double operator[](int64_t i) const {
    switch (scalar) {
      case Scalar::f64: return static_cast<const double*>(data)[i];
      case Scalar::f32: return static_cast<const float*>(data)[i];
      default: return of_16_bits(i);
    }
  }

  void set(int64_t i, double x) const {
    switch (scalar) {
      case Scalar::f64: static_cast<double*>(data)[i] = x; break;
      case Scalar::f32: static_cast<float*>(data)[i] = static_cast<float>(x); break;
      default: set_16_bits(i, static_cast<float>(x));
    }
  }

 private:
  double of_16_bits(int64_t i) const;
  void set_16_bits(int64_t i, float x) const;
};

// The type that kernels compute in.
inline Scalar computing_scalar(Scalar stored) { return stored == Scalar::f64 ? Scalar::f64 : Scalar::f32; }
inline int64_t size_of_computing(Scalar stored) { return stored == Scalar::f64 ? 8 : 4; }

}  // namespace nnk
