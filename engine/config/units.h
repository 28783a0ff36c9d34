// Numbers with units: "5M", "100 steps", "4 MiB", "10 min".
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "engine/config/fields.h"

namespace engine {

// None where the text is not a number with one of the unit's names.
std::optional<Count> parse_count(std::string_view text);        // k, M, G (10^3, ...); "steps", "tokens" may follow
std::optional<ByteCount> parse_bytes(std::string_view text);    // B, kB, MB, GB, KiB, MiB, GiB
std::optional<Duration> parse_duration(std::string_view text);  // s, min, h, d

std::string print_bytes(int64_t bytes);      // "4.2 MB"
std::string print_count(int64_t count);      // "1.3 M"
std::string print_duration(double seconds);  // "1m32s"

}  // namespace engine
