// Hashes: SHA-256 (libcrypto) for files and the run digest, XXH3-128 (libxxhash) for tensors.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace engine {

class Sha256 {
 public:
  using Digest = std::array<uint8_t, 32>;
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  void update(const void* data, int64_t bytes);
  void update(std::string_view text) { update(text.data(), static_cast<int64_t>(text.size())); }
  // Ends the message and begins another.
  Digest finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

Sha256::Digest sha256(const void* data, int64_t bytes);
std::string to_hex(const uint8_t* bytes, size_t count);
std::string to_hex(const Sha256::Digest& digest);

struct Hash128 {
  uint64_t low = 0, high = 0;
  // Addition mod 2^64 in both halves: the sum over blocks does not depend on who hashed which.
  Hash128& operator+=(const Hash128& other) {
    low += other.low;
    high += other.high;
    return *this;
  }
  bool operator==(const Hash128&) const = default;
};
Hash128 xxh3_128(const void* data, int64_t bytes, uint64_t seed = 0);

// xxh3_128() of a message that comes in pieces.
class Xxh3 {
 public:
  Xxh3();
  ~Xxh3();
  Xxh3(const Xxh3&) = delete;
  void update(const void* data, int64_t bytes);
  Hash128 value() const;  // of what has come so far

 private:
  struct State;
  std::unique_ptr<State> state_;
};

uint64_t xxh3_64(const void* data, int64_t bytes, uint64_t seed = 0);

}  // namespace engine
