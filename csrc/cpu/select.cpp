// Chooses the instruction set once, when the library is loaded. NNKERNELS_ISA asks for a lesser one, as tests do.
#include <cstdlib>
#include <cstring>

#include "../activations.h"
#include "../kernels.h"

#define NNK_DECLARE(isa)                                \
  namespace nnk::isa {                                  \
  void run(const Job& job, int64_t begin, int64_t end); \
  }

#if defined(__x86_64__)
NNK_DECLARE(baseline)
NNK_DECLARE(avx2)
NNK_DECLARE(avx512)
#else
NNK_DECLARE(neon)
#endif

namespace {

struct InstructionSet {
  const char* name;
  void (*run)(const nnk::Job&, int64_t, int64_t);
  bool usable;
};

InstructionSet choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const InstructionSet best_first[] = {
      {"avx512", nnk::avx512::run, avx512},
      {"avx2", nnk::avx2::run, avx2},
      {"baseline", nnk::baseline::run, true},
  };
#else
  const InstructionSet best_first[] = {{"neon", nnk::neon::run, true}};
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

#define NNK_NAME(name) "," #name

extern "C" {

const char* nnk_activation_names() { return &(NNK_ACTIVATIONS(NNK_NAME))[1]; }

const char* nnk_cpu_isa() { return chosen.name; }

void nnk_cpu_run(const nnk::Job* job, int64_t begin, int64_t end) { chosen.run(*job, begin, end); }
}
