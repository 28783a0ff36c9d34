#include "engine/train/load_log.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/config/json_reader.h"
#include "engine/core/error.h"

namespace engine::train {
namespace {

using Json = nlohmann::ordered_json;

template <class T>
void add(std::vector<T>& to, const std::vector<T>& from) {
  for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

double weighted(double a, double weight_a, double b, double weight_b) {
  return weight_a + weight_b > 0 ? (a * weight_a + b * weight_b) / (weight_a + weight_b) : 0;
}

void add(LayerWindow& a, const LayerWindow& b, double steps_a, double steps_b) {
  const double tokens_a = static_cast<double>(a.tokens), tokens_b = static_cast<double>(b.tokens);
  for (size_t e = 0; e < a.probability.size(); ++e) {
    a.probability[e] = weighted(a.probability[e], tokens_a, b.probability[e], tokens_b);
  }
  a.router_entropy = weighted(a.router_entropy, tokens_a, b.router_entropy, tokens_b);
  a.first_weight = weighted(a.first_weight, tokens_a, b.first_weight, tokens_b);
  a.aux_loss = weighted(a.aux_loss, steps_a, b.aux_loss, steps_b);
  a.z_loss = weighted(a.z_loss, steps_a, b.z_loss, steps_b);
  a.mean_overload = weighted(a.mean_overload, steps_a, b.mean_overload, steps_b);
  a.largest_overload = std::max(a.largest_overload, b.largest_overload);
  a.tokens += b.tokens;
  a.dropped += b.dropped;
  add(a.tokens_per_expert, b.tokens_per_expert);
  for (size_t s = 0; s < a.tokens_by_source.size(); ++s) add(a.tokens_by_source[s], b.tokens_by_source[s]);
  a.expert_bias = b.expert_bias;
}

bool same_shape(const LoadWindow& a, const LoadWindow& b) {
  if (a.sources != b.sources || a.layers.size() != b.layers.size()) return false;
  for (size_t l = 0; l < a.layers.size(); ++l) {
    if (a.layers[l].tokens_per_expert.size() != b.layers[l].tokens_per_expert.size()) return false;
  }
  return true;
}

}  // namespace

LoadWindow merge(const LoadWindow& first, const LoadWindow& second) {
  ENSURE(same_shape(first, second), "windows of different models are not one");
  LoadWindow all = first;
  for (size_t l = 0; l < all.layers.size(); ++l) {
    add(all.layers[l], second.layers[l], static_cast<double>(first.steps()), static_cast<double>(second.steps()));
  }
  all.last_step = second.last_step;
  all.seconds += second.seconds;
  all.ep_size = second.ep_size;
  if (first.ranks.size() != second.ranks.size()) all.ranks.clear();
  for (size_t r = 0; r < all.ranks.size(); ++r) {
    RankWindow& rank = all.ranks[r];
    add(rank.rows, second.ranks[r].rows);
    rank.bytes_sent += second.ranks[r].bytes_sent;
    rank.expert_seconds += second.ranks[r].expert_seconds;
    rank.exchange_seconds += second.ranks[r].exchange_seconds;
    rank.wait_seconds += second.ranks[r].wait_seconds;
  }
  return all;
}

std::string to_json(const LoadWindow& window) {
  Json layers = Json::array(), ranks = Json::array();
  for (const LayerWindow& l : window.layers) {
    Json layer = {{"layer", l.layer},
                  {"tokens", l.tokens},
                  {"tokens_per_expert", l.tokens_per_expert},
                  {"tokens_by_source", l.tokens_by_source},
                  {"dropped", l.dropped},
                  {"probability", l.probability},
                  {"router_entropy", l.router_entropy},
                  {"first_weight", l.first_weight},
                  {"aux_loss", l.aux_loss},
                  {"z_loss", l.z_loss}};
    if (!l.expert_bias.empty()) layer["expert_bias"] = l.expert_bias;
    layer["overload"] = {l.mean_overload, l.largest_overload};
    layers.push_back(layer);
  }
  for (const RankWindow& r : window.ranks) {
    ranks.push_back({{"rows", r.rows},
                     {"bytes_sent", r.bytes_sent},
                     {"expert_seconds", r.expert_seconds},
                     {"exchange_seconds", r.exchange_seconds},
                     {"wait_seconds", r.wait_seconds}});
  }
  return Json{{"step", window.last_step},
              {"first_step", window.first_step},
              {"seconds", window.seconds},
              {"ep_size", window.ep_size},
              {"sources", window.sources},
              {"layers", layers},
              {"ranks", ranks}}
      .dump();
}

std::string to_json(const EvaluationWindow& window) {
  Json sets = Json::array();
  for (const EvaluationLoad& set : window.sets) {
    sets.push_back({{"set", set.set}, {"tokens_per_expert", set.tokens_per_expert}});
  }
  return Json{{"step", window.step}, {"evaluation", sets}}.dump();
}

namespace {

constexpr ExitCode kCode = ExitCode::data;

std::vector<int64_t> integers(const JsonValue& list) {
  std::vector<int64_t> values;
  for (const JsonValue& item : list.items) values.push_back(item.integer);
  return values;
}

std::vector<std::vector<int64_t>> integer_rows(const JsonValue& list) {
  std::vector<std::vector<int64_t>> rows;
  for (const JsonValue& item : list.items) rows.push_back(integers(item));
  return rows;
}

std::vector<double> numbers(const JsonValue& list) {
  std::vector<double> values;
  for (const JsonValue& item : list.items) values.push_back(item.number);
  return values;
}

LayerWindow read_layer(const JsonValue& from) {
  LayerWindow layer{.layer = from.at("layer", kCode).integer,
                    .tokens = from.at("tokens", kCode).integer,
                    .dropped = from.at("dropped", kCode).integer,
                    .tokens_per_expert = integers(from.at("tokens_per_expert", kCode)),
                    .tokens_by_source = integer_rows(from.at("tokens_by_source", kCode)),
                    .probability = numbers(from.at("probability", kCode)),
                    .expert_bias = {},
                    .router_entropy = from.at("router_entropy", kCode).number,
                    .first_weight = from.at("first_weight", kCode).number,
                    .aux_loss = from.at("aux_loss", kCode).number,
                    .z_loss = from.at("z_loss", kCode).number};
  if (const JsonValue* bias = from.find("expert_bias")) layer.expert_bias = numbers(*bias);
  const std::vector<double> overload = numbers(from.at("overload", kCode));
  if (overload.size() == 2) layer.mean_overload = overload[0], layer.largest_overload = overload[1];
  for (const std::vector<int64_t>& source : layer.tokens_by_source) {
    if (source.size() == layer.tokens_per_expert.size()) continue;
    throw Error(kCode, str("layer ", layer.layer, " counts ", source.size(), " experts by source but has ",
                           layer.tokens_per_expert.size()));
  }
  return layer;
}

LoadWindow read_window(const JsonValue& from) {
  LoadWindow window{.first_step = from.at("first_step", kCode).integer,
                    .last_step = from.at("step", kCode).integer,
                    .ep_size = from.at("ep_size", kCode).integer,
                    .seconds = from.at("seconds", kCode).number};
  for (const JsonValue& name : from.at("sources", kCode).items) window.sources.push_back(name.string);
  for (const JsonValue& layer : from.at("layers", kCode).items) window.layers.push_back(read_layer(layer));
  for (const JsonValue& rank : from.at("ranks", kCode).items) {
    window.ranks.push_back({.rows = integers(rank.at("rows", kCode)),
                            .bytes_sent = rank.at("bytes_sent", kCode).integer,
                            .expert_seconds = rank.at("expert_seconds", kCode).number,
                            .exchange_seconds = rank.at("exchange_seconds", kCode).number,
                            .wait_seconds = rank.at("wait_seconds", kCode).number});
  }
  return window;
}

void check_shape(const EvaluationLoad& set, const LoadWindow& window, const std::string& path) {
  bool same = set.tokens_per_expert.size() == window.layers.size();
  for (size_t l = 0; same && l < window.layers.size(); ++l) {
    same = set.tokens_per_expert[l].size() == window.layers[l].tokens_per_expert.size();
  }
  if (!same) throw Error(kCode, str(path, ": the evaluation of ", set.set, " is of another model; remove its line"));
}

}  // namespace

LoadHistory read_load_history(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw Error(ExitCode::usage, str("cannot read ", path, "; give the directory of a run with experts"));
  LoadHistory history;
  int64_t number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    try {
      const JsonValue value = read_json(line, {.max_bytes = int64_t{1} << 28}, kCode);
      if (const JsonValue* sets = value.find("evaluation")) {
        EvaluationWindow& evaluation = history.evaluations.emplace_back();
        evaluation.step = value.at("step", kCode).integer;
        for (const JsonValue& set : sets->items) {
          evaluation.sets.push_back({set.at("set", kCode).string, integer_rows(set.at("tokens_per_expert", kCode))});
        }
        continue;
      }
      history.windows.push_back(read_window(value));
      if (!same_shape(history.windows.front(), history.windows.back())) {
        throw Error(kCode, "its layers, experts or sources are not those of the first line");
      }
    } catch (const Error& error) {
      if (file.eof()) break;  // the line that a killed run did not finish
      throw Error(kCode, str(path, " line ", number, ": ", error.what(), "; remove the line, or the file"));
    }
  }
  if (history.windows.empty()) throw Error(ExitCode::usage, str(path, " holds no step; train at least one"));
  for (const EvaluationWindow& evaluation : history.evaluations) {
    for (const EvaluationLoad& set : evaluation.sets) check_shape(set, history.windows[0], path);
  }
  return history;
}

void append_load(RunDirectory& directory, const std::string& line, int64_t max_bytes) {
  const std::string name = "experts.jsonl", path = directory.path() + "/" + name;
  directory.append(name, line);
  std::error_code error;
  if (static_cast<int64_t>(std::filesystem::file_size(path, error)) <= max_bytes || error) return;
  try {
    const LoadHistory history = read_load_history(path);
    std::string text;
    for (size_t i = 0; i < history.windows.size(); i += 2) {
      const bool pair = i + 1 < history.windows.size();
      text += to_json(pair ? merge(history.windows[i], history.windows[i + 1]) : history.windows[i]) + "\n";
    }
    for (size_t i = history.evaluations.size() % 2 == 0 ? 1 : 0; i < history.evaluations.size(); i += 2) {
      text += to_json(history.evaluations[i]) + "\n";  // every second one, the last among them
    }
    directory.write(name, text);
  } catch (const Error&) {
    // a log that cannot be made smaller does not stop training
  }
}

}  // namespace engine::train
