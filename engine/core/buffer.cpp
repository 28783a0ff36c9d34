#include "engine/core/buffer.h"

#include <sys/mman.h>

#include <atomic>
#include <utility>

#include "engine/core/device.h"
#include "engine/core/error.h"
#include "engine/core/planning.h"

namespace engine {
namespace {

thread_local bool planning = false;
std::atomic<int64_t> bytes_now = 0, bytes_most = 0;

void count_bytes(int64_t change) {
  const int64_t now = bytes_now += change;
  for (int64_t most = bytes_most; now > most && !bytes_most.compare_exchange_weak(most, now);) {
  }
}

}  // namespace

BufferBytes buffer_bytes() {
  return {bytes_now, bytes_most};
}

bool is_planning() {
  return planning;
}

Buffer::Planning::Planning() {
  planning = true;
}
Buffer::Planning::~Planning() {
  planning = false;
}

Buffer::Buffer(int64_t bytes, Device device) : bytes_(bytes), device_(device), planned_(planning) {
  ENSURE(bytes >= 0, "a buffer cannot have ", bytes, " bytes");
  if (bytes == 0) return;
  if (device == Device::cuda && !planning) {
    data_ = static_cast<char*>(device_allocate(bytes));
    return;
  }
  void* memory = mmap(nullptr, static_cast<size_t>(bytes), planning ? PROT_NONE : PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | (planning ? MAP_NORESERVE : 0), -1, 0);
  if (memory == MAP_FAILED) {
    throw Error(ExitCode::environment, str("out of memory: the system refused ", bytes >> 20,
                                           " MiB; use a smaller model, batch or train.micro_batch"));
  }
  madvise(memory, static_cast<size_t>(bytes),
          MADV_HUGEPAGE);  // worth 25 to 40 % of streaming bandwidth; may be refused
  data_ = static_cast<char*>(memory);
  if (!planned_) count_bytes(bytes);
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (device_ == Device::cuda && !planned_) {
    device_free(data_);
  } else {
    munmap(data_, static_cast<size_t>(bytes_));
    if (!planned_) count_bytes(-bytes_);
  }
}

void Buffer::swap(Buffer& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(device_, other.device_);
  std::swap(planned_, other.planned_);
}

OwnedTensor::OwnedTensor(DType dtype, std::initializer_list<int64_t> dims, Device device)
    : view(nullptr, dtype, dims, device) {
  memory = Buffer(view.num_elements() * dtype_bytes(dtype), device);
  view.data = memory.data();
}

}  // namespace engine
