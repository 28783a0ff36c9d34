#include "engine/train/digest.h"

#include "engine/core/error.h"

namespace engine::train {
namespace {

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

void RunDigest::begin(const Hash128& weights) {
  digest_ = sha256(&weights, sizeof(weights));
}

void RunDigest::resume(const std::string& hex) {
  bool valid = hex.size() == 2 * digest_.size();
  for (size_t i = 0; valid && i < digest_.size(); ++i) {
    const int high = hex_value(hex[2 * i]), low = hex_value(hex[2 * i + 1]);
    valid = high >= 0 && low >= 0;
    digest_[i] = static_cast<uint8_t>(high << 4 | low);
  }
  if (!valid) throw Error(ExitCode::checkpoint, str("the run digest \"", hex, "\" is not 64 hexadecimal digits"));
}

void RunDigest::add_step(int64_t step, double loss, double grad_norm, std::span<const double> square_sums,
                         std::span<const int64_t> tokens_per_expert) {
  hash_.update(digest_.data(), static_cast<int64_t>(digest_.size()));
  hash_.update(&step, sizeof(step));
  hash_.update(&loss, sizeof(loss));
  hash_.update(&grad_norm, sizeof(grad_norm));
  hash_.update(square_sums.data(), static_cast<int64_t>(square_sums.size_bytes()));
  hash_.update(tokens_per_expert.data(), static_cast<int64_t>(tokens_per_expert.size_bytes()));
  digest_ = hash_.finish();
}

void RunDigest::add_event(const std::string& event) {
  hash_.update(digest_.data(), static_cast<int64_t>(digest_.size()));
  hash_.update(event);
  digest_ = hash_.finish();
}

}  // namespace engine::train
