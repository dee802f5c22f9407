// Content addressing: a memory (batch, slots, size) and what each head looks for, of any strides.
#include "../../cpu/addressing.h"

#include <torch/csrc/stable/library.h>

#include "../launching.h"

namespace nnk {
namespace {

// In the order of AddressingPart.
using AddressingArguments = std::array<Argument, kAddressingParts>;

AddressingOperand addressing_operand(const Argument& a) {
  if (!a.tensor) return {};
  const auto strides = a.tensor->strides();
  return {a.tensor->mutable_data_ptr(), strides[0], strides[1], a.tensor->dim() == 3 ? strides[2] : 0};
}

// Checks the operands, and `where` or its gradient, and says where they lie.
AddressingJob addressing_job(const Requirements& needs, const AddressingArguments& parts, const Argument& where,
                             double eps) {
  const Tensor &memory = *parts[kMemory].tensor, &key = *parts[kKey].tensor;
  needs.floating({"memory", memory});
  needs.that(memory.dim() == 3, "memory has shape ", Shape(memory), ", expected batch x slots x size");
  needs.that(key.dim() == 3, "key has shape ", Shape(key), ", expected batch x heads x size");
  needs.that(!parts[kGate].tensor == !parts[kPrevious].tensor, "gate and previous go together");
  AddressingJob job{};
  job.scalar = scalar_of(memory), job.eps = eps;
  job.slots = memory.size(1), job.size = memory.size(2), job.heads = key.size(1), job.width = 1;
  if (const Tensor* shift = parts[kShift].tensor) {
    needs.that(shift->dim() == 3 && shift->size(2) % 2 == 1, "shift has shape ", Shape(*shift),
               ", expected batch x heads x an odd number");
    job.width = shift->size(2);
  }
  const int64_t batch = memory.size(0);
  needs.shape(parts[kKey], {batch, job.heads, job.size});
  for (const auto part : {kStrength, kGate, kSharpness}) needs.shape(parts[part], {batch, job.heads});
  needs.shape(parts[kPrevious], {batch, job.heads, job.slots});
  needs.shape(parts[kShift], {batch, job.heads, job.width});
  needs.shape(where, {batch, job.heads, job.slots});
  for (const Argument& part : parts) needs.dtype(part, memory.scalar_type());
  needs.dtype(where, memory.scalar_type());

  for (int i = 0; i < kAddressingParts; ++i) job.parts[i] = addressing_operand(parts[i]);
  job.where = addressing_operand(where);
  return job;
}

template <class Kernel>
void run_addressing(const AddressingJob& job, int64_t batch, Kernel kernel) {
  if (batch * job.heads * job.slots == 0) return;
  in_parallel(batch, (job.heads + 1) * job.slots * (job.size + 8),
              [&](int64_t begin, int64_t end) { kernel(job, begin, end); });
}

void content_addressing_op(const Tensor& memory, const Tensor& key, const Tensor& strength, OptionalTensor gate,
                           OptionalTensor previous, OptionalTensor shift, OptionalTensor sharpness, Tensor where,
                           double eps) {
  const Requirements needs("content_addressing");
  const AddressingArguments parts{{{"memory", memory},
                                   {"key", key},
                                   {"strength", strength},
                                   {"gate", gate},
                                   {"previous", previous},
                                   {"shift", shift},
                                   {"sharpness", sharpness}}};
  const AddressingJob job = addressing_job(needs, parts, {"where", where}, eps);
  for (const Argument& part : parts) needs.apart({{"where", where}}, {part});
  run_addressing(job, memory.size(0), content_addressing);
}

void content_addressing_backward_op(const Tensor& grad, const Tensor& memory, const Tensor& key, const Tensor& strength,
                                    OptionalTensor gate, OptionalTensor previous, OptionalTensor shift,
                                    OptionalTensor sharpness, OptionalTensor grad_memory, OptionalTensor grad_key,
                                    OptionalTensor grad_strength, OptionalTensor grad_gate,
                                    OptionalTensor grad_previous, OptionalTensor grad_shift,
                                    OptionalTensor grad_sharpness, double eps) {
  const Requirements needs("content_addressing_backward");
  const AddressingArguments parts{{{"memory", memory},
                                   {"key", key},
                                   {"strength", strength},
                                   {"gate", gate},
                                   {"previous", previous},
                                   {"shift", shift},
                                   {"sharpness", sharpness}}};
  const AddressingArguments gradients{{{"grad_memory", grad_memory},
                                       {"grad_key", grad_key},
                                       {"grad_strength", grad_strength},
                                       {"grad_gate", grad_gate},
                                       {"grad_previous", grad_previous},
                                       {"grad_shift", grad_shift},
                                       {"grad_sharpness", grad_sharpness}}};
  AddressingJob job = addressing_job(needs, parts, {"grad", grad}, eps);
  for (int i = 0; i < kAddressingParts; ++i) {
    const Argument& written = gradients[i];
    if (!written.tensor) continue;
    needs.that(parts[i].tensor, written.name, " is given without ", parts[i].name);
    needs.alike(written, parts[i]);
    needs.apart({written}, {{"grad", grad}});
    for (const Argument& part : parts) needs.apart({written}, {part});
    job.gradients[i] = addressing_operand(written);
  }
  run_addressing(job, memory.size(0), content_addressing_backward);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "content_addressing(Tensor memory, Tensor key, Tensor strength, Tensor? gate, Tensor? previous, Tensor? shift, "
      "Tensor? sharpness, Tensor(a!) where, float eps) -> ()");
  m.def(
      "content_addressing_backward(Tensor grad, Tensor memory, Tensor key, Tensor strength, Tensor? gate, "
      "Tensor? previous, Tensor? shift, Tensor? sharpness, Tensor(a!)? grad_memory, Tensor(b!)? grad_key, "
      "Tensor(c!)? grad_strength, Tensor(d!)? grad_gate, Tensor(e!)? grad_previous, Tensor(f!)? grad_shift, "
      "Tensor(g!)? grad_sharpness, float eps) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("content_addressing", TORCH_BOX(&content_addressing_op));
  m.impl("content_addressing_backward", TORCH_BOX(&content_addressing_backward_op));
}

}  // namespace nnk
