// Entry of the tests that need a device: SKIP (77) without one, saying why.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "engine/core/device.h"

int main(int argc, char** argv) {
  const std::string reason = engine::why_no_device();
  if (!reason.empty()) {
    std::printf("skipped: %s\n", reason.c_str());
    return 77;
  }
  std::printf("device: %s\n", engine::device_name().c_str());
  return doctest::Context(argc, argv).run();
}
