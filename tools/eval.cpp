// switchyard eval RUN|CHECKPOINT|HF_DIR: loss on held-out and other text, beside n-gram baselines and another model.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/config/canonical.h"
#include "engine/core/error.h"
#include "engine/core/thread_pool.h"
#include "engine/data/baselines.h"
#include "engine/data/corpus.h"
#include "engine/train/evaluate.h"
#include "engine/train/evaluate_difference.h"
#include "engine/train/evaluate_requirement.h"
#include "engine/train/evaluation_history.h"
#include "engine/train/loaded_model.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/device_option.h"
#include "tools/text_sets.h"

namespace tools {
namespace {

using namespace engine;
using engine::train::EvalResult;
using Json = nlohmann::ordered_json;

struct Options {
  std::string model, against, device = "cpu";
  TextChoice texts;
  std::vector<std::string> requirements;
  bool json = false, baselines = true;
  int threads = 0;
};

struct Row {
  EvalResult result;
  double three_gram = 0, five_gram = 0;  // bits per byte; 0: not measured
  double other_loss = 0;                 // with --against
  train::LossDifference difference = {};
};

// One model on every set.
struct Evaluated {
  std::string path;
  int64_t step = 0;
  std::vector<EvalResult> results;
};

// The sets of the run's own config, or the files given.
std::vector<data::TokenSet> sets_to_evaluate(const Options& options, const Config& config, data::Corpus& corpus) {
  std::vector<data::TokenSet> sets;
  if (!options.texts.empty()) return read_text_sets(options.texts, config.model.vocabulary());
  if (config.data.sources.empty() && config.data.ood.empty()) {
    throw Error(ExitCode::data, str(options.model, " names no text of its own; name some with --data"));
  }
  corpus = data::prepare_corpus(config.data, config.directory, static_cast<uint64_t>(config.seed),
                                config.model.vocabulary());
  for (const data::SourceSplit& source : corpus.sources) {
    if (source.held_out.tokens.size() >= 2) sets.push_back(source.held_out);
  }
  for (data::TokenSet set : corpus.ood) {
    set.name = "ood:" + set.name;
    sets.push_back(std::move(set));
  }
  if (sets.empty()) throw Error(ExitCode::data, "the model holds no text out of training; name a file with --data");
  return sets;
}

// The held-out sets of all sources as one.
Row total(const std::vector<Row>& rows, const std::vector<EvalResult>& others) {
  Row all;
  all.result.set = "held_out";
  double nats = 0, other_nats = 0, three = 0, five = 0;
  std::vector<const EvalResult*> ours, theirs;
  for (size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    if (row.result.set.starts_with("ood:")) continue;
    const double bytes = static_cast<double>(row.result.bytes), tokens = static_cast<double>(row.result.tokens);
    all.result.tokens += row.result.tokens, all.result.bytes += row.result.bytes;
    nats += row.result.loss * tokens;
    three += row.three_gram * bytes, five += row.five_gram * bytes;
    if (others.empty()) continue;
    other_nats += others[i].loss * tokens;
    ours.push_back(&row.result), theirs.push_back(&others[i]);
  }
  if (all.result.tokens == 0) return all;
  all.result.loss = nats / static_cast<double>(all.result.tokens);
  all.other_loss = other_nats / static_cast<double>(all.result.tokens);
  all.three_gram = three / static_cast<double>(all.result.bytes);
  all.five_gram = five / static_cast<double>(all.result.bytes);
  all.difference = train::difference_of(ours, theirs);
  return all;
}

Evaluated evaluate(train::LoadedModel& loaded, const std::vector<data::TokenSet>& sets, int64_t S) {
  const int64_t max_rows = std::max<int64_t>(S, 4096 / S * S);
  loaded.model().plan(max_rows);
  train::Evaluator evaluator(loaded.model(), loaded.world(), S, max_rows, loaded.config().train.document_mask);
  Evaluated evaluated{loaded.path(), loaded.state().step, {}};
  for (const data::TokenSet& set : sets)
    evaluated.results.push_back(evaluator.run(set.name, data::EvalWindows(set, S)));
  return evaluated;
}

// Everything that decides which text a run holds out.
std::string data_choice(const Config& config) {
  Config only;
  only.data = config.data;
  only.data.cache_dir.reset();
  only.seed = config.seed;
  return canonical_json(only);
}

// The model of --against on the windows of the first one.
Evaluated evaluate_other(const Options& options, const Config& config, const std::vector<data::TokenSet>& sets) {
  train::LoadedModel other(options.against, chosen_device(options.device));
  const ModelConfig& model = other.config().model;
  if (model.vocabulary() != config.model.vocabulary()) {
    throw Error(ExitCode::usage,
                str("--against has a vocabulary of ", model.vocabulary(), " tokens but ", options.model, " has ",
                    config.model.vocabulary(), "; only models of the same tokens compare"));
  }
  if (model.max_position_embeddings < config.train.seq_len) {
    throw Error(ExitCode::usage, str("--against reads ", model.max_position_embeddings, " tokens but ", options.model,
                                     " is evaluated on windows of ", config.train.seq_len, "; exchange the two"));
  }
  if (options.texts.empty() && data_choice(other.config()) != data_choice(config)) {
    std::fprintf(stderr,
                 "warning: --against was trained with other data settings or another seed, so it may have been "
                 "trained on text that is held out here\n");
  }
  return evaluate(other, sets, config.train.seq_len);
}

void add_baselines(const data::Corpus& corpus, const std::vector<data::TokenSet>& sets, std::vector<Row>& rows) {
  std::vector<const data::TokenSet*> pointers;
  for (const data::TokenSet& set : sets) pointers.push_back(&set);
  const std::vector<data::Baseline> baselines = data::measure_baselines(corpus, pointers);
  for (size_t i = 0; i < rows.size(); ++i)
    rows[i].three_gram = baselines[i].three_gram, rows[i].five_gram = baselines[i].five_gram;
}

// Where a checkpoint stands among the evaluations of its run; empty if there were none.
std::string standing(const Evaluated& ours, const train::EvaluationHistory& history) {
  if (history.count() == 0) return "";
  const std::string best = str("step ", history.best_step(), " of its run");
  if (history.best_step() == ours.step) return str("the best of the ", history.count(), " evaluations in training");
  const std::string stalled = history.since_best() >= train::kStalledAfter
                                  ? str("; stalled since, ", history.since_best(), " evaluations")
                                  : "";
  char bits[32];
  std::snprintf(bits, sizeof(bits), "%.4f", history.best());
  return str("step ", ours.step, "; the best was ", best, ", ", bits, " bits/byte", stalled);
}

double drift(const std::vector<Row>& rows, const Row& row) {
  return row.result.bits_per_byte() - rows.front().result.bits_per_byte();
}

// --- what is printed -----------------------------------------------------------------------------------------------

// `drifts`: later sets are compared with the first.
void print_table(const std::vector<Row>& rows, bool drifts) {
  std::printf("%-22s %9s %10s %11s %10s", "set", "loss", "bits/byte", "perplexity", "tokens");
  const bool baselines = !rows.empty() && rows[0].three_gram > 0;
  if (baselines) std::printf(" %8s %8s", "3-gram", "5-gram");
  std::printf(drifts ? " %9s\n" : "\n", "drift");
  for (const Row& row : rows) {
    std::printf("%-22s %9.4f %10.4f %11.3f %10lld", row.result.set.c_str(), row.result.loss, row.result.bits_per_byte(),
                row.result.perplexity(), static_cast<long long>(row.result.tokens));
    if (baselines) std::printf(" %8.4f %8.4f", row.three_gram, row.five_gram);
    if (drifts && &row != &rows.front()) std::printf(" %+9.4f", drift(rows, row));
    std::printf("\n");
  }
  if (drifts) std::printf("\ndrift: bits per byte more than on %s\n", rows.front().result.set.c_str());
  if (baselines)
    std::printf("\n3-gram and 5-gram: bits per byte of interpolated Witten-Bell models of the training text\n");
}

void print_differences(const std::vector<Row>& rows, const Evaluated& ours, const Evaluated& other) {
  std::printf("\nloss of %s (A) minus loss of %s (B), nats per token\n\n", ours.path.c_str(), other.path.c_str());
  std::printf("%-22s %9s %9s %10s %23s %8s  %s\n", "set", "A", "B", "A - B", "95 % interval", "windows", "A is");
  for (const Row& row : rows) {
    const train::LossDifference& d = row.difference;
    char interval[64] = "one window: none";
    if (d.has_interval) std::snprintf(interval, sizeof(interval), "%+.5f to %+.5f", d.low, d.high);
    std::printf("%-22s %9.4f %9.4f %+10.5f %23s %8lld  %s\n", row.result.set.c_str(), row.result.loss, row.other_loss,
                d.mean, interval, static_cast<long long>(d.windows),
                d.identical ? "the same in every window" : d.verdict().c_str());
  }
}

Json row_json(const Row& row, bool compared) {
  const EvalResult& r = row.result;
  Json set = {{"set", r.set},
              {"loss", r.loss},
              {"bpb", r.bits_per_byte()},
              {"perplexity", r.perplexity()},
              {"tokens", r.tokens}};
  if (row.three_gram > 0) set["three_gram_bpb"] = row.three_gram, set["five_gram_bpb"] = row.five_gram;
  if (!compared) return set;
  const train::LossDifference& d = row.difference;
  set["against_loss"] = row.other_loss;
  set["delta"] = d.mean;
  set["delta_low"] = d.has_interval ? Json(d.low) : Json(nullptr);
  set["delta_high"] = d.has_interval ? Json(d.high) : Json(nullptr);
  set["windows"] = d.windows;
  set["identical"] = d.identical;
  set["verdict"] = d.verdict();
  return set;
}

double measure(const Row& row, const std::string& metric) {
  if (metric == "loss") return row.result.loss;
  if (metric == "bpb") return row.result.bits_per_byte();
  if (metric == "perplexity") return row.result.perplexity();
  if (metric == "tokens") return static_cast<double>(row.result.tokens);
  return row.difference.mean;
}

const Row& row_of(const std::vector<Row>& rows, const train::Requirement& requirement) {
  std::string names;
  for (const Row& row : rows) {
    if (row.result.set == requirement.set) return row;
    names += (names.empty() ? "" : ", ") + row.result.set;
  }
  throw Error(ExitCode::usage,
              str("--require \"", requirement.text, "\" names no set that was evaluated; those are ", names));
}

int run(const Options& options) {
  std::vector<train::Requirement> requirements;
  for (const std::string& text : options.requirements) {
    requirements.push_back(train::parse_requirement(text));
    if (requirements.back().metric == "delta" && options.against.empty())
      throw Error(ExitCode::usage, str("--require \"", text, "\" needs another model; name it with --against"));
  }
  ThreadPool pool(options.threads > 0 ? options.threads : available_processors());
  pool.make_current();
  auto loaded = std::make_unique<train::LoadedModel>(options.model, chosen_device(options.device));
  const Config config = loaded->config();
  train::note_byte_reading(config.model);
  data::Corpus corpus;
  const std::vector<data::TokenSet> sets = sets_to_evaluate(options, config, corpus);
  const Evaluated ours = evaluate(*loaded, sets, config.train.seq_len);
  loaded.reset();  // one model in memory at a time
  const bool compared = !options.against.empty();
  const Evaluated other = compared ? evaluate_other(options, config, sets) : Evaluated{};
  std::vector<Row> rows;
  for (size_t i = 0; i < sets.size(); ++i) {
    Row& row = rows.emplace_back(Row{ours.results[i]});
    if (!compared) continue;
    row.other_loss = other.results[i].loss;
    row.difference = train::difference_of({&ours.results[i]}, {&other.results[i]});
  }
  if (options.texts.empty()) {
    if (options.baselines) add_baselines(corpus, sets, rows);
    if (Row all = total(rows, other.results); all.result.tokens > 0) rows.insert(rows.begin(), std::move(all));
  }
  const bool drifts = !options.texts.empty() && rows.size() > 1;
  const train::EvaluationHistory history = train::EvaluationHistory::read(
      (std::filesystem::path(ours.path).parent_path().parent_path() / "eval.jsonl").string());
  Json checks = Json::array();
  std::string unmet;
  for (const train::Requirement& requirement : requirements) {
    const double measured = measure(row_of(rows, requirement), requirement.metric);
    const bool holds = requirement.holds(measured);
    checks.push_back({{"require", requirement.text}, {"measured", measured}, {"met", holds}});
    if (!holds) unmet += (unmet.empty() ? "" : "; ") + train::unmet_message(requirement, measured);
  }
  if (options.json) {
    Json result = {{"checkpoint", ours.path}, {"step", ours.step}, {"sets", Json::array()}};
    for (const Row& row : rows) {
      result["sets"].push_back(row_json(row, compared));
      if (drifts) result["sets"].back()["drift_bpb"] = drift(rows, row);
    }
    if (history.count() > 0) {
      result["best_step"] = history.best_step(), result["best_bpb"] = history.best();
      result["evaluations_since_best"] = history.since_best();
    }
    if (compared) result["against"] = {{"checkpoint", other.path}, {"step", other.step}};
    if (!checks.empty()) result["requirements"] = checks;
    std::printf("%s\n", result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  } else {
    const std::string stands = standing(ours, history);
    std::printf("%s%s%s\n\n", ours.path.c_str(), stands.empty() ? "" : "\n", stands.c_str());
    print_table(rows, drifts);
    if (compared) print_differences(rows, ours, other);
  }
  std::fflush(stdout);
  if (!unmet.empty()) throw Error(ExitCode::requirement, unmet);
  return 0;
}

}  // namespace

void add_eval(CommandLine& program) {
  auto options = std::make_shared<Options>();
  CommandLine command = program.add_subcommand("eval", "loss, bits per byte and perplexity on text out of training");
  command.add_option("model", options->model, "run directory, checkpoint or Hugging Face directory").required();
  command.add_option("--data", options->texts.data,
                     "[NAME=]FILES: text in place of the run's own sets, a file, or a directory or glob as one set; "
                     "may be repeated");
  command.add_option("--by-folder", options->texts.by_folder, "a directory: each folder in it is a set of its own");
  command.add_option("--by-date", options->texts.by_date,
                     "FILES: a set for each month, by the date in a file's path or of its last change");
  command.add_option("--threads", options->threads, "threads (default: all processors)").positive();
  add_device_option(command, options->device);
  command.add_flag("!--no-baselines", options->baselines, "leave out the n-gram models");
  command.add_flag("--json", options->json, "one JSON object on stdout");
  command.add_option("--against", options->against,
                     "another run, checkpoint or Hugging Face directory, compared window by window");
  command.add_option(
      "--require", options->requirements,
      "SET.METRIC<NUMBER (or <=, >, >=), exit 7 where it does not hold; METRIC is loss, bpb, perplexity, "
      "tokens or, with --against, delta (loss minus the other's, nats per token); may be repeated");
  command.footer(
      "Examples: switchyard eval runs/quickstart --require 'held_out.bpb<2.4'\n"
      "          switchyard eval new --against old --require 'held_out.delta<0.01'\n"
      "          switchyard eval runs/new --data then=2024/ --by-date 'news/**/*.txt'");
  command.runs([options] { return run(*options); });
}

}  // namespace tools
