// The stream that torch currently queues on.
#pragma once

#include <cstdint>

namespace nnk {

void* current_stream(int32_t device_index);

}  // namespace nnk
