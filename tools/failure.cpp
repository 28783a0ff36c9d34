#include "tools/failure.h"

#include <cstdio>
#include <new>

#include "engine/core/error.h"

namespace tools {
namespace {

using engine::ExitCode;

constexpr const char* kOurBug = "; this is a bug of ours, please report it";

int report(ExitCode code, const std::string& message) {
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s (exit %d)\n", message.c_str(), static_cast<int>(code));
  return static_cast<int>(code);
}

}  // namespace

int report_failure(const std::exception_ptr& failure, const std::string& who) {
  try {
    std::rethrow_exception(failure);
  } catch (const engine::Error& error) {
    return report(error.code(), who + error.what() + (error.code() == ExitCode::bug ? kOurBug : ""));
  } catch (const std::bad_alloc&) {
    return report(ExitCode::environment, who + "out of memory; use a smaller model, batch or train.micro_batch");
  } catch (const std::exception& error) {
    return report(ExitCode::bug, who + error.what() + kOurBug);
  }
}

}  // namespace tools
