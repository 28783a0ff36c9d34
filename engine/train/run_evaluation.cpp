#include "engine/train/run_evaluation.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "engine/data/tokenizer.h"
#include "engine/train/generate.h"
#include "engine/train/load_log.h"

namespace engine::train {

using Json = nlohmann::ordered_json;

namespace {

std::string file_name(const char* folder, int64_t step, const char* suffix) {
  char name[64];
  std::snprintf(name, sizeof(name), "%s/step-%08lld%s", folder, static_cast<long long>(step), suffix);
  return name;
}

// Which experts each set went to.
EvaluationWindow expert_load(const std::vector<EvalResult>& results, int64_t step, size_t layers) {
  EvaluationWindow window{.step = step, .sets = {}};
  for (const EvalResult& result : results) {
    if (result.tokens_per_expert.empty()) continue;
    EvaluationLoad& load = window.sets.emplace_back();
    load.set = result.set;
    const size_t experts = result.tokens_per_expert.size() / layers;
    for (size_t l = 0; l < layers; ++l) {
      const int64_t* counts = result.tokens_per_expert.data() + l * experts;
      load.tokens_per_expert.emplace_back(counts, counts + experts);
    }
  }
  return window;
}

}  // namespace

RunEvaluation::RunEvaluation(Trainer& trainer, const data::Corpus& corpus, RunDirectory* directory, Console& console)
    : trainer_(trainer),
      corpus_(corpus),
      directory_(directory),
      console_(console),
      evaluator_(trainer.model(), *trainer.groups().world, trainer.config().train.seq_len, trainer.max_rows(),
                 trainer.config().train.document_mask) {
  for (const data::SourceSplit& source : corpus.sources) {
    if (source.held_out.tokens.size() >= 2) sets_.push_back({source.train.name, &source.held_out, true});
  }
  for (const data::TokenSet& set : corpus.ood) {
    if (set.tokens.size() >= 2) sets_.push_back({"ood:" + set.name, &set, false});
  }
}

void RunEvaluation::begin() {
  if (directory_) report_.history = EvaluationHistory::read(directory_->path() + "/eval.jsonl");
  if (!trainer_.config().eval.baselines || sets_.empty()) return;
  console_.activity("measuring 3-gram and 5-gram models");
  std::vector<const data::TokenSet*> tokens;
  for (const Set& set : sets_) tokens.push_back(set.tokens);
  baselines_ = data::measure_baselines(corpus_, tokens);
  console_.activity("");
  data::Baseline all;
  double bytes = 0;
  for (size_t i = 0; i < sets_.size(); ++i) {
    if (!sets_[i].held_out) continue;
    const double size = static_cast<double>(std::max<int64_t>(1, sets_[i].tokens->num_bytes - 1));
    all.three_gram += baselines_[i].three_gram * size, all.five_gram += baselines_[i].five_gram * size;
    bytes += size;
  }
  if (bytes == 0) return;
  all.three_gram /= bytes, all.five_gram /= bytes;
  baselines_.insert(baselines_.begin(), all);
  char text[120];
  std::snprintf(text, sizeof(text), "the same held-out text: 3-gram %.3f, 5-gram %.3f bits/byte", all.three_gram,
                all.five_gram);
  console_.line("baseline", text);
}

bool RunEvaluation::is_missing() const {
  int64_t found = sets_.empty() || (directory_ && directory_->last_step("eval.jsonl") >= trainer_.step()) ? 1 : 0;
  trainer_.groups().world->all_reduce_max(Tensor(&found, DType::i64, {1})).wait();
  return found == 0;
}

const EvaluationReport& RunEvaluation::run(int64_t max_tokens) {
  if (sets_.empty()) return report_;
  evaluate(max_tokens);
  if (stopped_) return report_;
  add_held_out_total();
  report_.step = trainer_.step();
  report_.baselines = baselines_;
  if (report_.results[0].set == "held_out") report_.history.add(report_.step, report_.results[0].bits_per_byte());
  console_.evaluation(report_);
  if (directory_) write();
  write_samples();
  return report_;
}

void RunEvaluation::evaluate(int64_t max_tokens) {
  const int64_t S = trainer_.config().train.seq_len;
  const int64_t sources = static_cast<int64_t>(corpus_.sources.size());
  report_.results.clear();
  stopped_ = false;
  for (size_t i = 0; i < sets_.size() && !stopped_; ++i) {
    const Set& set = sets_[i];
    console_.activity(str("evaluating ", set.name, ", set ", i + 1, " of ", sets_.size()));
    const int64_t share = max_tokens == 0 || !set.held_out ? max_tokens : std::max<int64_t>(S, max_tokens / sources);
    report_.results.push_back(evaluator_.run(set.name, data::EvalWindows(*set.tokens, S, share)));
    stopped_ = report_.results.back().stopped;
  }
  console_.activity("");
}

// The held-out text of all sources as one set, in front of them.
void RunEvaluation::add_held_out_total() {
  EvalResult all{.set = "held_out"};
  double nats = 0;
  for (size_t i = 0; i < sets_.size() && sets_[i].held_out; ++i) {
    const EvalResult& result = report_.results[i];
    all.tokens += result.tokens, all.bytes += result.bytes, nats += result.loss * static_cast<double>(result.tokens);
  }
  if (all.tokens == 0) return;
  all.loss = nats / static_cast<double>(all.tokens);
  report_.results.insert(report_.results.begin(), all);
}

void RunEvaluation::write() const {
  Json sets = Json::array();
  for (size_t i = 0; i < report_.results.size(); ++i) {
    const EvalResult& r = report_.results[i];
    Json set = {{"set", r.set},
                {"loss", r.loss},
                {"bpb", r.bits_per_byte()},
                {"perplexity", r.perplexity()},
                {"tokens", r.tokens}};
    if (i < baselines_.size())
      set["three_gram_bpb"] = baselines_[i].three_gram, set["five_gram_bpb"] = baselines_[i].five_gram;
    sets.push_back(set);
  }
  Json line = {{"step", report_.step}, {"sets", sets}};
  const EvaluationHistory& history = report_.history;
  if (history.count() > 0) {
    line["best_bpb"] = history.best();
    line["best_step"] = history.best_step();
    line["evaluations_since_best"] = history.since_best();
  }
  directory_->append("eval.jsonl", line.dump());
  directory_->publish(file_name("eval", report_.step, ".json"), line.dump(2) + "\n");
  const size_t layers = trainer_.model().moe_layers().size();
  if (layers > 0) append_load(*directory_, to_json(expert_load(report_.results, report_.step, layers)));
}

// Each continues the beginning of a source's held-out text. Collective, since experts are on other ranks.
void RunEvaluation::write_samples() {
  const Config& config = trainer_.config();
  const int64_t room = std::min<int64_t>(config.model.max_position_embeddings, 232);
  if (room < 4 || !sets_[0].held_out) return;
  const int64_t longest = std::min<int64_t>(32, room / 2);
  std::string text;
  for (int64_t i = 0; i < config.eval.samples; ++i) {
    console_.activity(str("writing sample ", i + 1, " of ", config.eval.samples));
    const Set& set = sets_[static_cast<size_t>(i) % corpus_.sources.size() % sets_.size()];
    const int64_t length = std::min(longest, static_cast<int64_t>(set.tokens->tokens.size()));
    const std::vector<uint16_t> beginning = set.tokens->tokens.slice(0, length);
    const std::vector<int32_t> prompt(beginning.begin(), beginning.end());
    const Generated written = generate(trainer_.model(), config.model, {prompt},
                                       {.max_tokens = room - length,
                                        .temperature = 0.8,
                                        .seed = static_cast<uint64_t>(config.seed + i),
                                        .max_rows = trainer_.max_rows()});
    text += str("== ", set.name, " | ", data::decode(prompt), " | ", data::decode(written.tokens[0]), "\n");
  }
  console_.activity("");
  if (directory_ && !text.empty()) directory_->publish(file_name("samples", report_.step, ".txt"), text);
}

}  // namespace engine::train
