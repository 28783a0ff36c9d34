// The run digest: one string that two people compare to know that two runs did the same, bit by bit.
//
// digest_n = SHA-256(digest_(n-1), step, bits of loss and gradient norm, squared gradient norm of each weight,
// tokens per expert of each MoE layer); digest_0 = SHA-256 of the hash of the initial weights.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "engine/core/hash.h"

namespace engine::train {

class RunDigest {
 public:
  // Begins a run from its initial weights.
  void begin(const Hash128& weights);
  // Goes on with a run that was saved.
  void resume(const std::string& hex);
  void add_step(int64_t step, double loss, double grad_norm, std::span<const double> square_sums,
                std::span<const int64_t> tokens_per_expert);
  // What happened between steps, e.g. a rollback.
  void add_event(const std::string& event);
  std::string hex() const { return to_hex(digest_); }

 private:
  Sha256 hash_;
  Sha256::Digest digest_{};
};

}  // namespace engine::train
