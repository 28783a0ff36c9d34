// Counting memory: whether new buffers are only counted (Buffer::Planning; then they have an address that nothing may
// be written to), and what all buffers of the process come to.
#pragma once

#include <cstdint>

namespace engine {

// Of the calling thread.
bool is_planning();

// Of buffers in the CPU's memory, planned ones left out: now, and at most so far.
struct BufferBytes {
  int64_t now = 0, most = 0;
};
BufferBytes buffer_bytes();

}  // namespace engine
