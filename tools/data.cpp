// switchyard data inspect|manifest|overlap|which CONFIG: what a run would read.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/config/problems.h"
#include "engine/config/reader.h"
#include "engine/config/units.h"
#include "engine/core/error.h"
#include "engine/core/thread_pool.h"
#include "engine/data/document_reader.h"
#include "engine/data/overlap.h"
#include "engine/data/sample_places.h"
#include "engine/data/sampler.h"
#include "engine/data/suspects.h"
#include "engine/data/text_checks.h"
#include "engine/data/tokenizer.h"
#include "tools/command.h"
#include "tools/command_line.h"

namespace tools {
namespace {

using namespace engine;
using Json = nlohmann::ordered_json;

struct Options {
  std::string config, first = "held_out", second = "train";
  std::vector<std::string> sets;
  int64_t step = 0, sample = -1, show = 80;
  bool json = false;
};

void print_json(const Json& value) {
  std::printf("%s\n", value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

data::DocumentSets read_sets(const Config& config, int64_t most_held = INT64_MAX) {
  return data::read_document_sets(config.data, config.directory, static_cast<uint64_t>(config.seed), most_held);
}

// --- inspect -------------------------------------------------------------------------------------------------------

struct SetSummary {
  std::string source, set;
  data::TokenSet tokens;
  std::string first_document;
};

std::vector<SetSummary> summarize(const Config& config, const data::DocumentSets& sets) {
  std::vector<SetSummary> all;
  const auto add = [&](const std::string& source, const char* set, const std::vector<data::Document>& documents) {
    const data::DocumentList list = data::pointers_to(documents);
    if (list.empty()) return;
    all.push_back({source, set, data::tokenize(source, list, config.model.vocabulary()), list[0]->name()});
  };
  for (size_t s = 0; s < sets.sources.size(); ++s) {
    add(sets.sources[s].name, "train", sets.splits[s].train);
    add(sets.sources[s].name, "held_out", sets.splits[s].held_out);
  }
  for (const data::SourceDocuments& source : sets.ood) add(source.name, "ood", source.documents);
  return all;
}

// The first tokens of a set as text; the end of a document as <end>.
std::string beginning(const data::TokenSet& set, int64_t count) {
  std::string text, out;
  const size_t end = std::min(set.tokens.size(), static_cast<size_t>(count));
  const std::vector<uint16_t> tokens = set.tokens.slice(0, static_cast<int64_t>(end));
  for (size_t i = 0; i <= end; ++i) {
    if (i < end && tokens[i] < 256) {
      text += static_cast<char>(tokens[i]);
      continue;
    }
    out += data::print_text(text, text.size());
    text.clear();
    if (i < end) out += "<end>";
  }
  return out;
}

Json inspect_json(const std::vector<SetSummary>& summaries, const data::DocumentSets& sets,
                  const std::vector<data::Suspect>& suspects, int64_t show) {
  Json result = {{"sets", Json::array()},
                 {"left_out", Json::object()},
                 {"left_out_names", Json::object()},
                 {"suspects", Json::array()}};
  for (const SetSummary& s : summaries) {
    const int64_t shown = std::min<int64_t>(show, static_cast<int64_t>(s.tokens.tokens.size()));
    result["sets"].push_back({{"source", s.source},
                              {"set", s.set},
                              {"documents", s.tokens.num_documents},
                              {"bytes", s.tokens.num_bytes},
                              {"tokens", s.tokens.tokens.size()},
                              {"first_document", s.first_document},
                              {"first_tokens", s.tokens.tokens.slice(0, shown)}});
  }
  for (const auto* sources : {&sets.sources, &sets.ood}) {
    for (const data::SourceDocuments& source : *sources) {
      result["left_out"][source.name] = source.left_out.empty() ? Json::object() : Json(source.left_out);
      result["left_out_names"][source.name] =
          source.left_out_names.empty() ? Json::object() : Json(source.left_out_names);
    }
  }
  for (const data::Suspect& s : suspects) {
    Json suspect = {{"source", s.source}, {"document", s.document}, {"kind", s.kind}, {"detail", s.detail}};
    if (!s.places.empty()) suspect["places"] = s.places;
    result["suspects"].push_back(suspect);
  }
  return result;
}

void print_first(const std::vector<std::string>& names, int64_t count) {
  constexpr int64_t kShown = 5;
  for (size_t i = 0; i < names.size() && i < kShown; ++i) std::printf("    %s\n", names[i].c_str());
  if (count > kShown) std::printf("    and %lld more (--json names them)\n", static_cast<long long>(count - kShown));
}

int inspect(const Options& options) {
  const Config config = load_config(options.config, options.sets);
  const data::DocumentSets sets = read_sets(config);
  const std::vector<SetSummary> summaries = summarize(config, sets);
  const std::vector<data::Suspect> suspects = data::find_suspects(sets, config.data.held_out.ngram);
  if (options.json) return print_json(inspect_json(summaries, sets, suspects, options.show)), 0;
  std::printf("%-16s %-9s %10s %12s %12s\n", "source", "set", "documents", "bytes", "tokens");
  for (const SetSummary& s : summaries) {
    std::printf("%-16s %-9s %10lld %12lld %12zu\n", s.source.c_str(), s.set.c_str(),
                static_cast<long long>(s.tokens.num_documents), static_cast<long long>(s.tokens.num_bytes),
                s.tokens.tokens.size());
  }
  for (const auto* sources : {&sets.sources, &sets.ood}) {
    for (const data::SourceDocuments& source : *sources) {
      for (const auto& [reason, count] : source.left_out) {
        std::printf("left out of %s: %lld %s\n", source.name.c_str(), static_cast<long long>(count), reason.c_str());
        print_first(source.left_out_names.at(reason), count);
      }
    }
  }
  std::printf("\nas the model sees it:\n");
  for (const SetSummary& s : summaries) {
    std::printf("%s, %s, from %s\n  %s\n", s.source.c_str(), s.set.c_str(), s.first_document.c_str(),
                beginning(s.tokens, options.show).c_str());
  }
  std::printf("\n%zu suspects%s\n", suspects.size(), suspects.empty() ? "" : "; data.filters can leave them out");
  for (const data::Suspect& s : suspects) {
    std::printf("%-16s %s\n  %s: %s\n", s.source.c_str(), s.document.c_str(), s.kind.c_str(), s.detail.c_str());
    print_first(s.places, static_cast<int64_t>(s.places.size()));
  }
  return 0;
}

// --- manifest ------------------------------------------------------------------------------------------------------

int manifest(const Options& options) {
  const Config config = load_config(options.config, options.sets);
  const data::Corpus corpus = data::prepare_corpus(config.data, config.directory, static_cast<uint64_t>(config.seed),
                                                   config.model.vocabulary());
  if (options.json) return print_json(Json::parse(corpus.manifest)), 0;
  std::printf("%s", corpus.manifest.c_str());
  return 0;
}

// --- overlap -------------------------------------------------------------------------------------------------------

// A set of the config by its name, or the documents of a file.
data::DocumentList select(const data::DocumentSets& sets, const std::string& name, std::vector<data::Document>& read) {
  data::DocumentList list;
  if (data::select_documents(sets, name, list)) return list;
  std::error_code error;
  if (!std::filesystem::exists(name, error)) {
    std::string names;
    for (const std::string& known : data::set_names(sets)) names += (names.empty() ? "" : ", ") + known;
    throw Error(ExitCode::usage, str("there is no set \"", name, "\" and no such file; the sets are ", names));
  }
  data::FileFacts facts;
  const std::string problem = data::read_documents(
      name, name, INT64_MAX, facts, [&](data::Document document) { read.push_back(std::move(document)); });
  if (!problem.empty()) throw Error(ExitCode::data, str(name, " is ", problem, "; give a text file or a set's name"));
  for (const data::Document& document : read) list.push_back(&document);
  return list;
}

int overlap(const Options& options) {
  const Config config = load_config(options.config, options.sets);
  const data::DocumentSets sets = read_sets(config, data::kMostHeldText);
  std::vector<data::Document> first_read, second_read;
  const int64_t ngram = config.data.held_out.ngram;
  const data::Overlap found =
      data::find_overlap(select(sets, options.first, first_read), select(sets, options.second, second_read), ngram);
  if (options.json) {
    Json documents = Json::array();
    for (const data::DocumentOverlap& d : found.documents) {
      documents.push_back({{"document", d.document},
                           {"runs", d.runs},
                           {"shared", d.shared},
                           {"overlap", d.share()},
                           {"most_like", d.most_like}});
    }
    print_json({{"first", options.first},
                {"second", options.second},
                {"ngram", ngram},
                {"runs", found.runs},
                {"shared", found.shared},
                {"overlap", found.share()},
                {"documents", documents}});
    return 0;
  }
  std::printf("%.2f %% of the %lld runs of %lld words in %s also stand in %s\n", found.share() * 100,
              static_cast<long long>(found.runs), static_cast<long long>(ngram), options.first.c_str(),
              options.second.c_str());
  for (size_t i = 0; i < found.documents.size() && i < 20; ++i) {
    const data::DocumentOverlap& d = found.documents[i];
    std::printf("%6.2f %%  %s\n          most in %s\n", d.share() * 100, d.document.c_str(), d.most_like.c_str());
  }
  if (found.documents.size() > 20) std::printf("and %zu more (--json lists them)\n", found.documents.size() - 20);
  return 0;
}

// --- which ---------------------------------------------------------------------------------------------------------

int which(const Options& options) {
  const Config config = load_config(options.config, options.sets);
  const int64_t each = config.sequences_per_step(), first = (options.step - 1) * each;
  if (options.sample >= each) {
    throw Error(ExitCode::usage, str("--sample is ", options.sample, " but a step has samples 0 to ", each - 1));
  }
  const data::Corpus corpus = data::prepare_corpus(config.data, config.directory, static_cast<uint64_t>(config.seed),
                                                   config.model.vocabulary());
  const int64_t S = config.train.seq_len;
  const data::Sampler sampler(corpus, S, static_cast<uint64_t>(config.seed));
  Json samples = Json::array();
  for (int64_t i = 0; i < each; ++i) {
    if (options.sample >= 0 && options.sample != i) continue;
    const data::Sampler::Place place = sampler.locate(first + i);
    const data::TokenSet& set = corpus.sources[place.source].train;
    Json pieces = Json::array();
    if (!options.json) {
      std::printf("sample %lld  granule %lld  source %s  tokens %lld to %lld\n", static_cast<long long>(i),
                  static_cast<long long>(i / config.sequences_per_granule()), set.name.c_str(),
                  static_cast<long long>(place.begin), static_cast<long long>(place.begin + S));
    }
    for (const data::SamplePiece& piece : data::find_pieces(set, place.begin, S + 1)) {
      Json entry = {{"file", piece.file}};
      if (piece.line > 0) entry["line"] = piece.line;
      entry["bytes"] = {piece.begin, piece.end};
      entry["ends_document"] = piece.ends_document;
      pieces.push_back(entry);
      if (options.json) continue;
      const std::string line = piece.line > 0 ? str(":", piece.line) : "";
      std::printf("  %s%s  bytes %lld to %lld%s\n", piece.file.c_str(), line.c_str(),
                  static_cast<long long>(piece.begin), static_cast<long long>(piece.end),
                  piece.ends_document ? "  <end>" : "");
    }
    samples.push_back({{"sample", i},
                       {"global_sample", first + i},
                       {"granule", i / config.sequences_per_granule()},
                       {"source", set.name},
                       {"tokens", {place.begin, place.begin + S + 1}},
                       {"pieces", pieces}});
  }
  if (options.json) print_json({{"step", options.step}, {"samples", samples}});
  return 0;
}

}  // namespace

void add_data(CommandLine& program) {
  auto options = std::make_shared<Options>();
  CommandLine data = program.add_subcommand("data", "look at the texts that a config names");
  data.require_subcommand();
  const auto add = [&](const char* name, const char* help, const char* example, int (*action)(const Options&)) {
    CommandLine command = data.add_subcommand(name, help);
    command.add_option("config", options->config, "config file").required();
    command.add_option("--set", options->sets, "KEY=VALUE: another value for a config key; may be repeated");
    command.add_flag("--json", options->json, "one JSON object on stdout");
    command.footer(str("Example: switchyard data ", name, " configs/debian_local.json", example));
    command.runs([options, action] {
      ThreadPool pool(available_processors());
      pool.make_current();
      return action(*options);
    });
    return command;
  };
  add("inspect", "documents and tokens as the model sees them, and what is suspect among them", "", inspect)
      .add_option("--show", options->show, "tokens shown of each set (default 80)")
      .between(0, INT64_MAX);
  add("manifest", "every file with its size, SHA-256, package and licence", " > manifest.json", manifest);
  CommandLine of_overlap =
      add("overlap", "runs of words that two sets share, 13 of them unless data.held_out.ngram says otherwise",
          " ood train:python", overlap);
  of_overlap.add_option("first", options->first, "train, held_out, ood, one of them with :SOURCE, or a text file");
  of_overlap.add_option("second", options->second, "the same (default: held_out and train)");
  CommandLine of_which = add("which", "file and byte range of each sample of a training step", " --step 10", which);
  of_which.add_option("--step", options->step, "step, from 1 as in metrics.jsonl").required().positive();
  of_which.add_option("--sample", options->sample, "only this sample of the step, from 0").between(0, INT64_MAX);
}

}  // namespace tools
