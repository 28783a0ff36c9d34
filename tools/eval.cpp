// switchyard eval RUN|CHECKPOINT: loss on held-out and other text, beside n-gram baselines.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/config/units.h"
#include "engine/core/error.h"
#include "engine/core/thread_pool.h"
#include "engine/data/corpus.h"
#include "engine/data/document_reader.h"
#include "engine/data/ngram.h"
#include "engine/data/tokenizer.h"
#include "engine/train/evaluate.h"
#include "engine/train/loaded_model.h"
#include "tools/command.h"

namespace tools {
namespace {

using namespace engine;
using engine::train::EvalResult;

struct Options {
  std::string model;
  std::vector<std::string> files;
  bool json = false, baselines = true;
  int threads = 0;
};

struct Row {
  EvalResult result;
  double three_gram = 0, five_gram = 0;  // bits per byte; 0: not measured
};

double bits_per_byte(const data::NgramModel& model, const data::TokenSet& set) {
  const double bits = model.bits_per_token(set.tokens) * static_cast<double>(set.tokens.size() - 1);
  return bits / static_cast<double>(std::max<int64_t>(1, set.num_bytes - 1));
}

data::TokenSet read_file_set(const std::string& path, int64_t vocab_size) {
  std::vector<data::Document> documents;
  data::FileFacts facts;
  const std::string problem = data::read_documents(
      path, path, INT64_MAX, facts, [&](data::Document document) { documents.push_back(std::move(document)); });
  if (!problem.empty()) throw Error(ExitCode::data, str(path, " is ", problem, "; give a text file with --data"));
  std::vector<const data::Document*> pointers;
  for (const data::Document& document : documents) pointers.push_back(&document);
  data::TokenSet set = data::tokenize(path, pointers, vocab_size);
  if (set.tokens.size() < 2)
    throw Error(ExitCode::data, str(path, " has ", set.num_bytes, " bytes of text; at least 2 are needed"));
  return set;
}

// The sets of the run's own config, or the files given.
std::vector<data::TokenSet> sets_to_evaluate(const Options& options, const Config& config, data::Corpus& corpus) {
  std::vector<data::TokenSet> sets;
  if (!options.files.empty()) {
    for (const std::string& path : options.files) sets.push_back(read_file_set(path, config.model.vocabulary()));
    return sets;
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
  if (sets.empty()) throw Error(ExitCode::data, "the run holds no text out of training; name a file with --data");
  return sets;
}

// All held-out sets as one.
Row total(const std::vector<Row>& rows) {
  Row all;
  all.result.set = "held_out";
  double nats = 0, three = 0, five = 0;
  for (const Row& row : rows) {
    if (row.result.set.starts_with("ood:")) continue;
    const double bytes = static_cast<double>(row.result.bytes);
    all.result.tokens += row.result.tokens, all.result.bytes += row.result.bytes;
    nats += row.result.loss * static_cast<double>(row.result.tokens);
    three += row.three_gram * bytes, five += row.five_gram * bytes;
  }
  if (all.result.tokens == 0) return all;
  all.result.loss = nats / static_cast<double>(all.result.tokens);
  all.three_gram = three / static_cast<double>(all.result.bytes);
  all.five_gram = five / static_cast<double>(all.result.bytes);
  return all;
}

void print_table(const std::vector<Row>& rows, const std::string& path) {
  std::printf("%s\n\n", path.c_str());
  std::printf("%-22s %9s %10s %11s %10s %8s %8s\n", "set", "loss", "bits/byte", "perplexity", "tokens", "3-gram",
              "5-gram");
  for (const Row& row : rows) {
    std::printf("%-22s %9.4f %10.4f %11.3f %10lld", row.result.set.c_str(), row.result.loss, row.result.bits_per_byte(),
                row.result.perplexity(), static_cast<long long>(row.result.tokens));
    if (row.three_gram > 0) std::printf(" %8.4f %8.4f", row.three_gram, row.five_gram);
    std::printf("\n");
  }
  if (!rows.empty() && rows[0].three_gram > 0) {
    std::printf("\n3-gram and 5-gram: bits per byte of interpolated Witten-Bell models of the training text\n");
  }
}

int run(const Options& options) {
  ThreadPool pool(options.threads > 0 ? options.threads : available_processors());
  pool.make_current();
  train::LoadedModel loaded(options.model);
  const Config& config = loaded.config();
  const int64_t S = config.train.seq_len, max_rows = std::max<int64_t>(S, 4096 / S * S);
  loaded.model().plan(max_rows);
  train::Evaluator evaluator(loaded.model(), loaded.world(), S, max_rows, config.train.document_mask);
  data::Corpus corpus;
  std::vector<Row> rows;
  std::vector<data::TokenSet> sets = sets_to_evaluate(options, config, corpus);
  for (const data::TokenSet& set : sets) rows.push_back({evaluator.run(set.name, data::EvalWindows(set, S)), 0, 0});
  if (options.files.empty() && options.baselines) {
    data::NgramModel three(3, data::kByteVocabulary), five(5, data::kByteVocabulary);
    parallel_for(2, [&](int64_t i) {
      for (const data::SourceSplit& source : corpus.sources) (i == 0 ? three : five).train(source.train.tokens);
    });
    parallel_for(static_cast<int64_t>(rows.size()), [&](int64_t i) {
      const size_t at = static_cast<size_t>(i);
      rows[at].three_gram = bits_per_byte(three, sets[at]);
      rows[at].five_gram = bits_per_byte(five, sets[at]);
    });
  }
  if (options.files.empty() && total(rows).result.tokens > 0) rows.insert(rows.begin(), total(rows));
  if (!options.json) return print_table(rows, loaded.path()), 0;
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Row& row : rows) {
    const EvalResult& r = row.result;
    nlohmann::ordered_json set = {{"set", r.set},
                                  {"loss", r.loss},
                                  {"bpb", r.bits_per_byte()},
                                  {"perplexity", r.perplexity()},
                                  {"tokens", r.tokens}};
    if (row.three_gram > 0) set["three_gram_bpb"] = row.three_gram, set["five_gram_bpb"] = row.five_gram;
    list.push_back(set);
  }
  const nlohmann::ordered_json result = {{"checkpoint", loaded.path()}, {"step", loaded.state().step}, {"sets", list}};
  std::printf("%s\n", result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  return 0;
}

}  // namespace

void add_eval(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", "loss, bits per byte and perplexity on text out of training");
  command->add_option("model", options->model, "run directory or checkpoint")->required();
  command->add_option("--data", options->files,
                      "text file to evaluate on in place of the run's own sets; may be repeated");
  command->add_option("--threads", options->threads, "threads (default: all processors)")->check(CLI::PositiveNumber);
  command->add_flag("!--no-baselines", options->baselines, "leave out the n-gram models");
  command->add_flag("--json", options->json, "one JSON object on stdout");
  command->footer("Example: switchyard eval runs/quickstart");
  command->callback([options, &chosen] { chosen = [options] { return run(*options); }; });
}

}  // namespace tools
