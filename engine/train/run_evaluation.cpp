#include "engine/train/run_evaluation.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "engine/data/ngram.h"
#include "engine/data/tokenizer.h"

namespace engine::train {

using Json = nlohmann::ordered_json;

namespace {

// What a model of three bytes reaches on the same held-out text, in bits per byte; 0 where none is held out.
double three_gram_baseline(const data::Corpus& corpus) {
  data::NgramModel model(3, data::kByteVocabulary);
  for (const data::SourceSplit& source : corpus.sources) model.train(source.train.tokens);
  double bits = 0;
  int64_t bytes = 0;
  for (const data::SourceSplit& source : corpus.sources) {
    const std::vector<uint16_t>& tokens = source.held_out.tokens;
    if (tokens.size() < 2) continue;
    bits += model.bits_per_token(tokens) * static_cast<double>(tokens.size() - 1);
    bytes += source.held_out.num_bytes - 1;
  }
  return bytes > 0 ? bits / static_cast<double>(bytes) : 0;
}

Json sets_json(const std::vector<EvalResult>& results) {
  Json sets = Json::array();
  for (const EvalResult& r : results) {
    sets.push_back({{"set", r.set},
                    {"loss", r.loss},
                    {"bpb", r.bits_per_byte()},
                    {"perplexity", r.perplexity()},
                    {"tokens", r.tokens}});
  }
  return sets;
}

}  // namespace

RunEvaluation::RunEvaluation(Trainer& trainer, const data::Corpus& corpus, RunDirectory* directory, Console& console)
    : trainer_(trainer),
      corpus_(corpus),
      directory_(directory),
      console_(console),
      evaluator_(trainer.model(), *trainer.groups().world, trainer.config().train.seq_len, trainer.max_rows(),
                 trainer.config().train.document_mask) {}

void RunEvaluation::measure_baseline() {
  three_gram_ = three_gram_baseline(corpus_);
  if (three_gram_ == 0) return;
  char text[96];
  std::snprintf(text, sizeof(text), "the held-out text under a 3-gram model of the training text: %.3f bits/byte",
                three_gram_);
  console_.line("baseline", text);
}

void RunEvaluation::run(int64_t max_tokens) {
  const int64_t S = trainer_.config().train.seq_len;
  std::vector<EvalResult> results;
  EvalResult all{.set = "held_out"};
  double nats = 0;
  for (const data::SourceSplit& source : corpus_.sources) {
    if (source.held_out.tokens.size() < 2) continue;
    const int64_t share =
        max_tokens == 0 ? 0 : std::max<int64_t>(S, max_tokens / static_cast<int64_t>(corpus_.sources.size()));
    const EvalResult result = evaluator_.run(source.train.name, data::EvalWindows(source.held_out, S, share));
    all.tokens += result.tokens, all.bytes += result.bytes, nats += result.loss * static_cast<double>(result.tokens);
    results.push_back(result);
  }
  all.loss = all.tokens > 0 ? nats / static_cast<double>(all.tokens) : 0;
  if (!results.empty()) results.insert(results.begin(), all);
  for (const data::TokenSet& set : corpus_.ood)
    results.push_back(evaluator_.run("ood:" + set.name, data::EvalWindows(set, S, max_tokens)));
  if (results.empty()) return;
  const bool is_best = all.tokens > 0 && (!best_ || all.loss < *best_);
  if (is_best) best_ = all.loss;
  console_.evaluation(results, three_gram_, is_best);
  if (directory_) {
    directory_->append("eval.jsonl", Json{{"step", trainer_.step()}, {"sets", sets_json(results)}}.dump());
  }
}

}  // namespace engine::train
