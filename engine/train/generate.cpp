#include "engine/train/generate.h"

#include <algorithm>
#include <span>

#include "engine/core/error.h"
#include "engine/core/profiler.h"
#include "engine/core/rng.h"
#include "engine/core/simd.h"
#include "engine/data/tokenizer.h"
#include "engine/train/decoder.h"

namespace engine::train {
namespace {

int32_t pick(std::span<const float> logits, double temperature, uint64_t key, int64_t number) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (temperature <= 0) return static_cast<int32_t>(best - logits.begin());
  const float scale = static_cast<float>(1 / temperature);
  double total = 0;
  std::vector<double> weights;
  for (float logit : logits) {
    weights.push_back(static_cast<double>(simd::exp((logit - *best) * scale)));
    total += weights.back();
  }
  double left = total * static_cast<double>(uniform_from_bits(philox(key, static_cast<uint64_t>(number))[0]));
  for (size_t v = 0; v < weights.size(); ++v) {
    left -= weights[v];
    if (left < 0) return static_cast<int32_t>(v);
  }
  return static_cast<int32_t>(best - logits.begin());
}

}  // namespace

int64_t Generated::num_tokens() const {
  int64_t count = 0;
  for (const std::vector<int32_t>& sequence : tokens) count += std::ssize(sequence);
  return count;
}

Generated generate(model::Model& model, const ModelConfig& config, const std::vector<std::vector<int32_t>>& prompts,
                   const GenerateOptions& options) {
  const int64_t room = config.max_position_embeddings, sequences = std::ssize(prompts);
  ENSURE(room >= 2, "no room to continue in ", room, " positions");
  std::vector<std::vector<int32_t>> contexts = prompts;
  for (std::vector<int32_t>& context : contexts) {
    if (context.empty()) throw Error(ExitCode::usage, "a prompt is empty; give at least one character");
    if (std::ssize(context) > room) context.erase(context.begin(), context.end() - room);
  }
  Decoder decoder(model, config, sequences, options.max_rows);
  const uint64_t key = derive_key(options.seed, "generate");
  Generated result;
  result.tokens.resize(prompts.size());
  double start = monotonic_seconds();
  for (int64_t b = 0; b < sequences; ++b) decoder.read(b, contexts[static_cast<size_t>(b)]);
  result.prefill_seconds = monotonic_seconds() - start;
  start = monotonic_seconds();
  std::vector<bool> over(prompts.size(), false);
  std::vector<int64_t> going;
  std::vector<int32_t> next;
  for (int64_t number = 0; number < options.max_tokens; ++number) {
    going.clear(), next.clear();
    for (int64_t b = 0; b < sequences; ++b) {
      const size_t at = static_cast<size_t>(b);
      if (over[at]) continue;
      const int32_t token = pick(decoder.logits(b), options.temperature, key, number);
      over[at] = token == data::kEndOfDocument;
      if (over[at]) continue;
      result.tokens[at].push_back(token);
      if (number + 1 == options.max_tokens) continue;
      std::vector<int32_t>& context = contexts[at];
      const bool full = std::ssize(context) == room;
      if (full) context.erase(context.begin(), context.end() - room / 2);
      context.push_back(token);
      if (full) {
        decoder.read(b, context);
      } else {
        going.push_back(b), next.push_back(token);
      }
    }
    decoder.advance(going, next);
  }
  result.decode_seconds = monotonic_seconds() - start;
  return result;
}

}  // namespace engine::train
