// Calls a kernel as it was compiled for the instruction set that was chosen when the library was loaded.
#pragma once

namespace nnk {

enum class Isa : int { baseline, avx2, avx512, neon };

Isa chosen_isa();

}  // namespace nnk

// For a loop that waits for memory. It is as fast with vectors of 32 bytes, and on AMD's Zen 4 those of 64 are up to a
// third slower: a store holds up the loads behind it that have its last 12 bits of address, as tensors of like size do.
#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__)
#define NNK_WAITS_FOR_MEMORY __attribute__((noinline, target("prefer-vector-width=256")))
#else
#define NNK_WAITS_FOR_MEMORY
#endif

// Declares nnk::<isa>::name, which csrc/cpu/*.cpp define in namespace nnk::NNK_ISA, and nnk::name, which calls the
// right one: NNK_KERNEL(run, (const Job& job, int64_t begin, int64_t end), (job, begin, end)).
#if defined(NNK_BASELINE_ONLY)
#define NNK_KERNEL(name, parameters, arguments)             \
  namespace nnk::baseline {                                 \
  void name parameters;                                     \
  }                                                         \
  namespace nnk {                                           \
  inline void name parameters { baseline::name arguments; } \
  }
#elif defined(__x86_64__)
#define NNK_KERNEL(name, parameters, arguments)        \
  namespace nnk::baseline {                            \
  void name parameters;                                \
  }                                                    \
  namespace nnk::avx2 {                                \
  void name parameters;                                \
  }                                                    \
  namespace nnk::avx512 {                              \
  void name parameters;                                \
  }                                                    \
  namespace nnk {                                      \
  inline void name parameters {                        \
    switch (chosen_isa()) {                            \
      case Isa::avx512: return avx512::name arguments; \
      case Isa::avx2: return avx2::name arguments;     \
      default: return baseline::name arguments;        \
    }                                                  \
  }                                                    \
  }
#else
#define NNK_KERNEL(name, parameters, arguments)         \
  namespace nnk::neon {                                 \
  void name parameters;                                 \
  }                                                     \
  namespace nnk {                                       \
  inline void name parameters { neon::name arguments; } \
  }
#endif
