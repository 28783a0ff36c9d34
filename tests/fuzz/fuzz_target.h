// What every fuzz target has: bytes go to a reader, which takes them or throws Error; anything else is a finding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/core/error.h"

// Defines the function that libFuzzer calls.
#define FUZZ_TARGET(bytes)                                                  \
  static void read_bytes(std::string_view bytes);                           \
  extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) { \
    try {                                                                   \
      read_bytes({reinterpret_cast<const char*>(data), size});              \
    } catch (const engine::Error& error) {                                  \
      if (error.code() == engine::ExitCode::bug) throw;                     \
    }                                                                       \
    return 0;                                                               \
  }                                                                         \
  static void read_bytes([[maybe_unused]] std::string_view bytes)
