// What a field list is made of: values with units, and the bounds of a key.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace engine {

// A number of steps or tokens; in a file also a string: "100 steps", "5M", "2k".
struct Count {
  int64_t value = 0;
  bool operator==(const Count&) const = default;
};
// Bytes; in a file also a string: "5 MB" (10^6), "4 MiB" (2^20).
struct ByteCount {
  int64_t value = 0;
  bool operator==(const ByteCount&) const = default;
};
// Seconds; in a file also a string: "90 s", "10 min", "2 h".
struct Duration {
  double seconds = 0;
  bool operator==(const Duration&) const = default;
};
// A positive number or the string "auto".
struct AutoOr {
  std::optional<int64_t> value;  // none: auto
  bool operator==(const AutoOr&) const = default;
};

// The bounds of one key. Lists are checked element by element.
struct Bounds {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool excludes_low = false;
  bool must_be_given = false;
  std::vector<std::string> choices;
};
inline Bounds any() {
  return {};
}
inline Bounds required() {
  Bounds bounds;
  bounds.must_be_given = true;
  return bounds;
}
inline Bounds at_least(double low) {
  Bounds bounds;
  bounds.low = low;
  return bounds;
}
inline Bounds above(double low) {
  Bounds bounds = at_least(low);
  bounds.excludes_low = true;
  return bounds;
}
inline Bounds between(double low, double high) {
  Bounds bounds = at_least(low);
  bounds.high = high;
  return bounds;
}
inline Bounds one_of(std::initializer_list<const char*> choices) {
  Bounds bounds;
  bounds.choices.assign(choices.begin(), choices.end());
  return bounds;
}

}  // namespace engine
