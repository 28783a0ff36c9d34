#include "engine/config/units.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <utility>
#include <vector>

namespace engine {
namespace {

struct Quantity {
  double number;
  std::string unit;
};

std::optional<Quantity> split(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  double number = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !std::isfinite(number)) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  return Quantity{number, std::string(text)};
}

using Units = std::vector<std::pair<const char*, double>>;

std::optional<double> scaled(std::string_view text, const Units& units) {
  const std::optional<Quantity> quantity = split(text);
  if (!quantity) return std::nullopt;
  for (const auto& [name, factor] : units) {
    if (quantity->unit == name) return quantity->number * factor;
  }
  return std::nullopt;
}

std::optional<int64_t> whole(std::optional<double> value) {
  if (!value || *value != std::floor(*value) || std::fabs(*value) > 9e15) return std::nullopt;
  return static_cast<int64_t>(*value);
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), value < 10 ? "%.1f" : "%.0f", value);
  return text;
}

}  // namespace

std::optional<Count> parse_count(std::string_view text) {
  for (std::string_view noun : {"steps", "tokens", "step", "token"}) {
    if (text.ends_with(noun)) {
      text.remove_suffix(noun.size());
      break;
    }
  }
  const auto value = whole(scaled(text, {{"", 1}, {"k", 1e3}, {"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"B", 1e9}}));
  if (!value) return std::nullopt;
  return Count{*value};
}

std::optional<ByteCount> parse_bytes(std::string_view text) {
  const auto value = whole(scaled(text, {{"", 1},
                                         {"B", 1},
                                         {"kB", 1e3},
                                         {"KB", 1e3},
                                         {"MB", 1e6},
                                         {"GB", 1e9},
                                         {"KiB", 1024},
                                         {"MiB", 1048576},
                                         {"GiB", 1073741824}}));
  if (!value) return std::nullopt;
  return ByteCount{*value};
}

std::optional<Duration> parse_duration(std::string_view text) {
  const auto value = scaled(text, {{"", 1}, {"s", 1}, {"sec", 1}, {"min", 60}, {"m", 60}, {"h", 3600}, {"d", 86400}});
  if (!value) return std::nullopt;
  return Duration{*value};
}

std::string print_bytes(int64_t bytes) {
  const double b = static_cast<double>(bytes);
  if (b < 1e3) return std::to_string(bytes) + " B";
  if (b < 1e6) return short_number(b / 1e3) + " kB";
  if (b < 1e9) return short_number(b / 1e6) + " MB";
  return short_number(b / 1e9) + " GB";
}

std::string print_count(int64_t count) {
  const double n = static_cast<double>(count);
  if (n < 1e3) return std::to_string(count);
  if (n < 1e6) return short_number(n / 1e3) + " k";
  if (n < 1e9) return short_number(n / 1e6) + " M";
  return short_number(n / 1e9) + " G";
}

std::string print_duration(double seconds) {
  char text[48];
  const int64_t s = static_cast<int64_t>(seconds + 0.5);
  if (seconds < 10) {
    std::snprintf(text, sizeof(text), "%.1fs", seconds);
  } else if (s < 60) {
    std::snprintf(text, sizeof(text), "%llds", static_cast<long long>(s));
  } else if (s < 3600) {
    std::snprintf(text, sizeof(text), "%lldm%02llds", static_cast<long long>(s / 60), static_cast<long long>(s % 60));
  } else {
    std::snprintf(text, sizeof(text), "%lldh%02lldm", static_cast<long long>(s / 3600),
                  static_cast<long long>(s / 60 % 60));
  }
  return text;
}

}  // namespace engine
