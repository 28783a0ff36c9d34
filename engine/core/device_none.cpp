// A build without CUDA: there is no device.
#include "engine/core/device.h"
#include "engine/core/error.h"
#include "engine/core/graph.h"

namespace engine {

std::string why_no_device() {
  return "this build has no CUDA; configure one with meson setup -Dcuda=enabled, or use --device cpu";
}
void require_device() {
  throw Error(ExitCode::environment, why_no_device());
}
int device_count() {
  require_device();
  return 0;
}
void choose_device(int) {
  require_device();
}
std::string device_bus_id() {
  require_device();
  return "";
}
std::string device_name() {
  return "none";
}

std::string device_driver() {
  return "none";
}

DeviceStream device_stream() {
  require_device();
  return nullptr;
}
void device_synchronize() {
  require_device();
}
DeviceWaits device_waits() {
  require_device();
  return {};
}
void set_stream_check(std::function<void()>) {
  require_device();
}
int64_t device_memory_used() {
  require_device();
  return 0;
}
int64_t device_memory_free() {
  require_device();
  return 0;
}
int64_t device_memory_changes() {
  require_device();
  return 0;
}
void* device_allocate(int64_t) {
  require_device();
  return nullptr;
}
void device_free(void*) noexcept {}
void copy_to_device(void*, const void*, int64_t) {
  require_device();
}
void copy_to_host(void*, const void*, int64_t) {
  require_device();
}
void device_copy(void*, const void*, int64_t) {
  require_device();
}
void device_fill(void*, int, int64_t) {
  require_device();
}
PinnedCopy::PinnedCopy(PinnedCopy&&) noexcept {}
PinnedCopy::~PinnedCopy() = default;
void PinnedCopy::reserve(int64_t) {
  require_device();
}
void PinnedCopy::start(const void*, int64_t) {
  require_device();
}
void PinnedCopy::wait() {
  require_device();
}
void* device_scratch(int64_t) {
  require_device();
  return nullptr;
}
DeviceFork::DeviceFork(int64_t) {
  require_device();
}
DeviceFork::~DeviceFork() = default;
void DeviceFork::use(int) {
  require_device();
}
void DeviceFork::join() {
  require_device();
}

void Graph::record(const std::function<void()>&) {
  require_device();
}
void Graph::launch() const {
  require_device();
}
void Graph::forget() noexcept {}

}  // namespace engine
