#include "engine/train/tensorboard.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <cstring>

#include "engine/core/error.h"

namespace engine::train {
namespace {

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0x82F63B78u : 0);  // the polynomial, reversed
    table[byte] = value;
  }
  return table;
}

void put_bytes(std::string& out, uint64_t value, int count) {
  for (int i = 0; i < count; ++i) out += static_cast<char>(value >> (8 * i));
}

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

// Fields of a protocol buffer: the number and the kind of the value, then the value.
void put_double(std::string& out, uint64_t field, double value) {
  put_varint(out, field << 3 | 1);
  put_bytes(out, std::bit_cast<uint64_t>(value), 8);
}
void put_float(std::string& out, uint64_t field, float value) {
  put_varint(out, field << 3 | 5);
  put_bytes(out, std::bit_cast<uint32_t>(value), 4);
}
void put_integer(std::string& out, uint64_t field, int64_t value) {
  put_varint(out, field << 3);
  put_varint(out, static_cast<uint64_t>(value));
}
void put_text(std::string& out, uint64_t field, std::string_view value) {
  put_varint(out, field << 3 | 2);
  put_varint(out, value.size());
  out += value;
}

// Fields of Event, Summary, Summary.Value and SessionLog.
constexpr uint64_t kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7;
constexpr uint64_t kValue = 1, kTag = 1, kSimpleValue = 2, kStatus = 1;
constexpr int64_t kStart = 1;  // of SessionLog.SessionStatus

std::string record(const std::string& event) {
  std::string length, out;
  put_bytes(length, event.size(), 8);
  out = length;
  put_bytes(out, masked_crc32c(length), 4);
  out += event;
  put_bytes(out, masked_crc32c(event), 4);
  return out;
}

}  // namespace

uint32_t masked_crc32c(std::string_view data) {
  static constexpr std::array<uint32_t, 256> table = crc_table();
  uint32_t crc = 0xFFFFFFFFu;
  for (char c : data) crc = crc >> 8 ^ table[(crc ^ static_cast<unsigned char>(c)) & 0xFF];
  crc = ~crc;
  return std::rotr(crc, 15) + 0xA282EAD8u;
}

std::string tensorboard_header(double wall_time) {
  std::string event;
  put_double(event, kWallTime, wall_time);
  put_text(event, kFileVersion, "brain.Event:2");
  return record(event);
}

std::string tensorboard_scalars(double wall_time, int64_t step, const Scalars& scalars) {
  std::string event, summary;
  for (const auto& [tag, number] : scalars) {
    std::string value;
    put_text(value, kTag, tag);
    put_float(value, kSimpleValue, static_cast<float>(number));
    put_text(summary, kValue, value);
  }
  put_double(event, kWallTime, wall_time);
  put_integer(event, kStep, step);
  put_text(event, kSummary, summary);
  return record(event);
}

std::string tensorboard_restart(double wall_time, int64_t first_step) {
  std::string event, log;
  put_integer(log, kStatus, kStart);
  put_double(event, kWallTime, wall_time);
  put_integer(event, kStep, first_step);
  put_text(event, kSessionLog, log);
  return record(event);
}

std::string tensorboard_file_name(double wall_time) {
  char host[64] = {};
  gethostname(host, sizeof(host) - 1);
  return str("events.out.tfevents.", static_cast<int64_t>(wall_time), ".", host, ".", getpid());
}

}  // namespace engine::train
