#include "engine/train/generate.h"

#include <algorithm>

#include "engine/core/error.h"
#include "engine/core/rng.h"
#include "engine/core/simd.h"
#include "engine/data/document_mask.h"

namespace engine::train {
namespace {

// Feeds tokens[begin..) as positions begin.. of the one sequence and returns the logits after the last.
void feed(model::Model& model, const std::vector<int32_t>& tokens, int64_t begin, std::vector<float>& logits) {
  const int64_t length = static_cast<int64_t>(tokens.size());
  std::vector<int32_t> positions(tokens.size()), starts(tokens.size());
  data::document_mask(tokens.data(), length, true, positions.data(), starts.data());
  nn::Pass pass{.num_sequences = 1,
                .seq_len = length - begin,
                .first_position = begin,
                .keep_keys = true,
                .positions = positions.data() + begin,
                .document_starts = starts.data() + begin};
  model.forward(pass, ConstTensor(tokens.data() + begin, DType::i32, {length - begin}));
  model.logits(pass, length - begin - 1, Tensor(logits.data(), DType::f32, {1, static_cast<int64_t>(logits.size())}));
}

int32_t pick(const std::vector<float>& logits, double temperature, uint64_t key, int64_t number) {
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

Generated generate(model::Model& model, const ModelConfig& config, const std::vector<int32_t>& prompt,
                   const GenerateOptions& options) {
  const size_t room = static_cast<size_t>(config.max_position_embeddings);
  if (prompt.empty()) throw Error(ExitCode::usage, "the prompt is empty; give at least one character with -p");
  ENSURE(room >= 2, "no room to continue in ", room, " positions");
  model.reserve_keys(1, config.max_position_embeddings);
  std::vector<int32_t> context = prompt;
  std::vector<float> logits(static_cast<size_t>(config.vocabulary()));
  const uint64_t key = derive_key(options.seed, "generate");
  Generated result;
  double start = monotonic_seconds();
  if (context.size() > room) context.erase(context.begin(), context.end() - static_cast<int64_t>(room));
  feed(model, context, 0, logits);
  result.prefill_seconds = monotonic_seconds() - start;
  start = monotonic_seconds();
  while (static_cast<int64_t>(result.tokens.size()) < options.max_tokens) {
    const int32_t token = pick(logits, options.temperature, key, static_cast<int64_t>(result.tokens.size()));
    if (token == data::kEndOfDocument) break;
    result.tokens.push_back(token);
    if (static_cast<int64_t>(result.tokens.size()) == options.max_tokens) break;
    int64_t begin = static_cast<int64_t>(context.size());
    if (context.size() == room) {
      context.erase(context.begin(), context.end() - static_cast<int64_t>(room / 2));
      begin = 0;
    }
    context.push_back(token);
    feed(model, context, begin, logits);
  }
  result.decode_seconds = monotonic_seconds() - start;
  return result;
}

}  // namespace engine::train
