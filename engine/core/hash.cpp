#include "engine/core/hash.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include "engine/core/error.h"

namespace engine {

struct Sha256::Context {
  EVP_MD_CTX* evp = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(evp); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  ENSURE(EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr) == 1, "libcrypto has no SHA-256");
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;

void Sha256::update(const void* data, int64_t bytes) {
  EVP_DigestUpdate(context_->evp, data, static_cast<size_t>(bytes));
}

Sha256::Digest Sha256::finish() {
  Digest digest;
  EVP_DigestFinal_ex(context_->evp, digest.data(), nullptr);
  EVP_DigestInit_ex(context_->evp, nullptr, nullptr);
  return digest;
}

Sha256::Digest sha256(const void* data, int64_t bytes) {
  Sha256 hash;
  hash.update(data, bytes);
  return hash.finish();
}

std::string to_hex(const uint8_t* bytes, size_t count) {
  static const char digits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    text += digits[bytes[i] >> 4];
    text += digits[bytes[i] & 15];
  }
  return text;
}

std::string to_hex(const Sha256::Digest& digest) {
  return to_hex(digest.data(), digest.size());
}

Hash128 xxh3_128(const void* data, int64_t bytes, uint64_t seed) {
  XXH128_hash_t hash = XXH3_128bits_withSeed(data, static_cast<size_t>(bytes), seed);
  return {hash.low64, hash.high64};
}

struct Xxh3::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

Xxh3::Xxh3() : state_(std::make_unique<State>()) {
  ENSURE(state_->xxh != nullptr && XXH3_128bits_reset(state_->xxh) == XXH_OK, "no memory for a hash");
}
Xxh3::~Xxh3() = default;

void Xxh3::update(const void* data, int64_t bytes) {
  XXH3_128bits_update(state_->xxh, data, static_cast<size_t>(bytes));
}

Hash128 Xxh3::value() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->xxh);
  return {hash.low64, hash.high64};
}

uint64_t xxh3_64(const void* data, int64_t bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(data, static_cast<size_t>(bytes), seed);
}

}  // namespace engine
