#include "engine/train/tensorboard.h"

#include <cstring>
#include <map>

#include "tests/support/compare.h"

namespace {

using namespace engine::train;

// The definition: one bit at a time, the polynomial reversed.
uint32_t crc32c(std::string_view data) {
  uint32_t crc = 0xFFFFFFFFu;
  for (char c : data) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0x82F63B78u & (0u - (crc & 1u)));
  }
  return ~crc;
}
uint32_t masked(uint32_t crc) {
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

uint64_t little_endian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

// One field of a protocol buffer; takes it off the front.
struct Field {
  uint64_t number, integer;
  std::string_view bytes;
};
uint64_t take_varint(std::string_view& text) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const uint64_t byte = static_cast<unsigned char>(text.front());
    text.remove_prefix(1);
    value |= (byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
}
Field take_field(std::string_view& text) {
  const uint64_t key = take_varint(text);
  Field field{key >> 3, 0, {}};
  if ((key & 7) == 0) return field.integer = take_varint(text), field;
  const size_t size = (key & 7) == 1 ? 8 : (key & 7) == 5 ? 4 : take_varint(text);
  field.bytes = text.substr(0, size);
  field.integer = size <= 8 ? little_endian(field.bytes) : 0;
  text.remove_prefix(size);
  return field;
}

// The events of a file, with every checksum tested.
std::vector<std::string_view> events_of(std::string_view file) {
  std::vector<std::string_view> events;
  while (!file.empty()) {
    REQUIRE(file.size() >= 16);
    const size_t size = little_endian(file.substr(0, 8));
    CHECK(little_endian(file.substr(8, 4)) == masked(crc32c(file.substr(0, 8))));
    events.push_back(file.substr(12, size));
    CHECK(little_endian(file.substr(12 + size, 4)) == masked(crc32c(events.back())));
    file.remove_prefix(16 + size);
  }
  return events;
}

double as_double(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, 8);
  return value;
}
float as_float(uint64_t bits) {
  const uint32_t low = static_cast<uint32_t>(bits);
  float value;
  std::memcpy(&value, &low, 4);
  return value;
}

}  // namespace

TEST_CASE("tensorboard: checksums are CRC-32C, masked") {
  CHECK(crc32c("123456789") == 0xE3069283u);            // the check value of CRC-32C
  CHECK(crc32c(std::string(32, '\0')) == 0x8A9136AAu);  // RFC 3720, B.4
  CHECK(crc32c(std::string(32, '\xFF')) == 0x62A8AB43u);
  std::string text;
  for (int i = 0; i < 300; ++i) {
    CHECK(masked_crc32c(text) == masked(crc32c(text)));
    text += static_cast<char>(i * 37 + 11);
  }
}

TEST_CASE("tensorboard: events hold what was given") {
  const Scalars scalars = {{"loss", 2.5}, {"eval/held_out", 0.1}, {"negative", -3e-9}};
  const std::string file = tensorboard_header(100.25) + tensorboard_restart(101, 300) +
                           tensorboard_scalars(102.5, 1234567, scalars) + tensorboard_scalars(103, 0, {});
  const std::vector<std::string_view> events = events_of(file);
  REQUIRE(events.size() == 4);
  std::map<uint64_t, Field> fields[4];
  for (size_t e = 0; e < 4; ++e) {
    for (std::string_view rest = events[e]; !rest.empty();) {
      const Field field = take_field(rest);
      CHECK(fields[e].emplace(field.number, field).second);
    }
  }
  CHECK(as_double(fields[0].at(1).integer) == 100.25);
  CHECK(fields[0].at(3).bytes == "brain.Event:2");
  CHECK(fields[1].at(2).integer == 300);
  CHECK(fields[1].at(7).bytes == std::string_view("\x08\x01"));  // SessionLog.status = START
  CHECK(as_double(fields[2].at(1).integer) == 102.5);
  CHECK(fields[2].at(2).integer == 1234567);
  std::string_view summary = fields[2].at(5).bytes;
  for (const auto& [tag, number] : scalars) {
    const Field value = take_field(summary);
    CHECK(value.number == 1);
    std::string_view rest = value.bytes;
    const Field name = take_field(rest), simple = take_field(rest);
    CHECK(name.number == 1);
    CHECK(name.bytes == tag);
    CHECK(simple.number == 2);
    CHECK(as_float(simple.integer) == static_cast<float>(number));
    CHECK(rest.empty());
  }
  CHECK(summary.empty());
  CHECK(fields[3].at(5).bytes.empty());
}
