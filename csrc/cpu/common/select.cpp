// Chooses the instruction set once, when the library is loaded. NNKERNELS_ISA asks for a lesser one, as tests do.
#include <cstdlib>
#include <cstring>

#include "../../activations.h"
#include "../../kernels.h"
#include "../isa.h"

NNK_KERNEL(run, (const Job& job, int64_t begin, int64_t end), (job, begin, end))

namespace {

struct InstructionSet {
  const char* name;
  nnk::Isa isa;
  bool usable;
};

InstructionSet choose() {
#if defined(NNK_BASELINE_ONLY)
  const InstructionSet best_first[] = {{"baseline", nnk::Isa::baseline, true}};
#elif defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const InstructionSet best_first[] = {
      {"avx512", nnk::Isa::avx512, avx512},
      {"avx2", nnk::Isa::avx2, avx2},
      {"baseline", nnk::Isa::baseline, true},
  };
#else
  const InstructionSet best_first[] = {{"neon", nnk::Isa::neon, true}};
#endif
  if (const char* asked = std::getenv("NNKERNELS_ISA")) {
    for (const InstructionSet& isa : best_first) {
      if (isa.usable && std::strcmp(isa.name, asked) == 0) return isa;
    }
  }
  for (const InstructionSet& isa : best_first) {
    if (isa.usable) return isa;
  }
  return best_first[0];
}

const InstructionSet chosen = choose();

}  // namespace

#if defined(NNK_GCC_ON_HOST)
const float nnk::kOne = 1.0f;
#endif

nnk::Isa nnk::chosen_isa() { return chosen.isa; }

#define NNK_NAME(name) "," #name

extern "C" {

const char* nnk_activation_names() { return &(NNK_ACTIVATIONS(NNK_NAME))[1]; }

const char* nnk_cpu_isa() { return chosen.name; }

void nnk_cpu_run(const nnk::Job* job, int64_t begin, int64_t end) { nnk::run(*job, begin, end); }
}
