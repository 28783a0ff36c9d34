// Errors: one exception type that carries the exit code, and ENSURE for what a caller or a file can cause.
//
// A message says what is, what should be and what to do, in one sentence without a full stop:
//   parallel.ep_size is 4 but must divide the 6 ranks: 1, 2, 3 or 6
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace engine {

enum class ExitCode : int {
  ok = 0,
  bug = 1,          // ours: asks for a report
  usage = 2,        // command line or config
  data = 3,         // input text
  environment = 4,  // memory, disk, device, MPI
  numerical = 5,    // not finite, diverged
  checkpoint = 6,   // missing, damaged or incompatible
  requirement = 7,  // --check or --require not met
  directory_in_use = 8,
  rank_lost = 9,  // a rank died or hung
  stopped = 75,   // on request, after a durable save, to be resumed
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// str("rows is ", 3, " but must be ", 4) -> "rows is 3 but must be 4"
template <class... Parts>
std::string str(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

[[noreturn]] inline void check_failed(const char* file, int line, const char* condition, const std::string& message) {
  throw Error(ExitCode::bug, str(file, ":", line, ": ", message.empty() ? str("not true: ", condition) : message));
}

}  // namespace engine

// Always on. For what the code around a call can get wrong; user input throws Error with its own exit code.
#define ENSURE(condition, ...)                                                            \
  do {                                                                                    \
    if (!(condition)) [[unlikely]] {                                                      \
      ::engine::check_failed(__FILE__, __LINE__, #condition, ::engine::str(__VA_ARGS__)); \
    }                                                                                     \
  } while (false)
