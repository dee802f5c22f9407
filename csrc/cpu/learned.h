// Activations with learned parameters, over `outer` x `channels` x `inner` elements of which the inner are adjacent.
#pragma once

#include <memory>
#include <vector>

#include "../kernels.h"
#include "isa.h"
#include "numbers.h"

namespace nnk {

enum class Learned : int { prelu, swish, apl, xielu, snake, snake_beta, starrelu, dyt };
constexpr int kLearned = 8, kMostParameters = 3;
constexpr double kSnakeGuard = 1e-9;  // what BigVGAN adds to beta, lest the quotient by it be infinite

// How many tensors of parameters an activation has.
constexpr int parameters_of(Learned activation) {
  constexpr int counts[kLearned] = {1, 1, 2, 2, 1, 2, 2, 3};
  return counts[static_cast<int>(activation)];
}

// How many numbers besides, which are the same for all channels and have no gradient.
constexpr int constants_of(Learned activation) { return activation == Learned::xielu ? 2 : 0; }

struct LearnedOperand {
  void* data;
  int64_t outer_stride, channel_stride;  // in elements
};

// With inner == 1 the channels are adjacent. Work is cut into blocks of fixed size, whatever the number of threads:
// item ((outer block * inner blocks) + inner block) * channel blocks + channel block.
struct LearnedJob {
  Learned activation;
  Scalar scalar;
  int segments;  // of apl
  int64_t outer, channels, inner;
  int64_t last;  // channels in the last of `outer`, when inner is 1
  int64_t outer_block, channel_block, inner_block;
  LearnedOperand operands[3];  // x, y or grad, x, grad_input
  const void* parameters;      // rows of `channels` floats (doubles for f64): `parameter_rows`, then the constants'
  void* partials;              // null, or `parameter_rows` of sums for each pair of an outer and an inner block

  int64_t outer_blocks() const { return (outer + outer_block - 1) / outer_block; }
  int64_t channel_blocks() const { return (channels + channel_block - 1) / channel_block; }
  int64_t inner_blocks() const { return (inner + inner_block - 1) / inner_block; }
  int64_t items() const { return outer_blocks() * channel_blocks() * inner_blocks(); }
  int64_t partial_sums() const { return outer_blocks() * inner_blocks() * parameter_rows() * channels; }
  int parameter_rows() const { return parameters_of(activation) * segments; }
};

// Column v of a job's parameters is channel v / step % count.
struct LearnedColumns {
  int64_t step = 1, count = 1;
};

// Sets how the operands, of which the last is the output, lie as outer x channels x inner, and cuts the blocks; false
// where one does not. `per_channel`: dimension 1 is the channels', else there is one.
bool lay_out(int dims, const int64_t* sizes, const int64_t* const* strides, int operands, bool per_channel,
             LearnedJob* job, LearnedColumns* columns);

// `parameters`, of `rows` rows each, and `constants` in the computing type of `scalar`: one column for each of
// `channels`.
std::unique_ptr<char[]> learned_table(const std::vector<Numbers>& parameters, const std::vector<double>& constants,
                                      int64_t rows, LearnedColumns columns, int64_t channels, Scalar scalar);

// Adds up the job's partial sums, in their order and in double, into `gradients`, like `parameters`. What a share still
// lacks, being the same for all elements of a channel, multiplies their sum.
void learned_total(const LearnedJob& job, const std::vector<Numbers>& parameters, LearnedColumns columns,
                   const std::vector<Numbers>& gradients);

}  // namespace nnk

NNK_KERNEL(learned_forward, (const LearnedJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(learned_backward, (const LearnedJob& job, int64_t begin, int64_t end), (job, begin, end))
