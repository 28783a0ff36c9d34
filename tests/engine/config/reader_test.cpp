#include "engine/config/reader.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "engine/config/canonical.h"
#include "engine/config/check.h"
#include "engine/config/parameter_count.h"
#include "engine/config/units.h"
#include "tests/support/compare.h"

namespace {

using namespace engine;

const char* kGood = R"({
  "version": 1,
  "model": { "hidden_size": 64, "num_attention_heads": 4, "num_experts": 4, "max_position_embeddings": 64 },
  "train": { "seq_len": 32, "batch_tokens": "2k", "granules": 4, "stop": { "steps": "100 steps" } },
  "data": { "sources": [ { "name": "a", "files": "a.txt" } ] }
})";

std::string error_of(const std::string& text, const std::vector<std::string>& sets = {}) {
  try {
    parse_config(text, "c.json", sets);
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::usage);
    return error.what();
  }
  return "";
}

std::string replaced(const std::string& from, const std::string& to) {
  std::string text = kGood;
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

TEST_CASE("config: a good file is read, with units, and its canonical form reads back the same") {
  std::string text = replaced("\"2k\"", "2048");
  const Config config = parse_config(text, "c.json", {"optim.lr=2e-3", "name=mine"});
  CHECK(config.batch_tokens() == 2048);
  CHECK(config.train.stop.steps->value == 100);
  CHECK(config.optim.lr == 2e-3);
  CHECK(config.name == "mine");
  CHECK(config.model.vocabulary() == 257);
  CHECK(canonical_json(parse_config(canonical_json(config), "again", {})) == canonical_json(config));
  const Config traced = parse_config(
      text, "c.json", {"log.expert_trace_steps=[1, 20]", "log.trace_steps=[3]", "parallel.expert_placement=auto"});
  CHECK(traced.log.expert_trace_steps == std::vector<int64_t>{1, 20});
  CHECK(traced.log.trace_steps == std::vector<int64_t>{3});
  CHECK(*traced.parallel.expert_placement == "auto");
  CHECK(error_of(text, {"log.trace_steps=[0]"}).find("log.trace_steps") != std::string::npos);
  const Config floats = parse_config(replaced("\"2k\"", "2.048e3"), "c.json",
                                     {"train.stop.steps=1e2", "seed=7.0", "parallel.ep_size=2.0", "eval.samples=2e0"});
  CHECK(floats.batch_tokens() == 2048);
  CHECK(floats.train.stop.steps->value == 100);
  CHECK(floats.seed == 7);
  CHECK(floats.parallel.ep_size.value == 2);
  CHECK(error_of(text, {"seed=1e17"}).find("seed is 1e+17 but must be an integer") != std::string::npos);
}

TEST_CASE("config: each mistake gives its place and what to do") {
  struct Mistake {
    std::string text, expected;
  };
  const std::string model = "\"num_experts\": 4";
  const Mistake mistakes[] = {
      {replaced(model, "\"num_expert\": 4"), "c.json:3:59  error: unknown key \"num_expert\" in model"},
      {replaced(model, "\"num_expert\": 4"), "did you mean \"num_experts\"?"},
      {replaced(model, "\"num_experts\": \"many\""),
       "model.num_experts is \"many\" but must be an integer of at least 0"},
      {replaced(model, "\"num_experts\": 4.5"), "model.num_experts is 4.5 but must be an integer"},
      {replaced(model, "\"num_experts\": -1"), "model.num_experts is -1 but must be an integer of at least 0"},
      {replaced(model, "\"num_experts\": null"), "model.num_experts is null but must be an integer"},
      {replaced(model, "\"num_experts\": 4, \"num_experts\": 5"),
       "the key \"num_experts\" stands twice, first in line 3"},
      {replaced(model, "\"num_experts\": 99999999999999999999"), "larger than"},
      {replaced(model, "\"num_experts\": 1e400"), "number overflow"},
      {replaced(model, "\"num_experts\": 1"), "model.num_experts_per_tok is 2 but there are only 1 experts"},
      {replaced(model, "\"num_experts\": 4, \"n_group\": 3"),
       "model.n_group is 3 but must divide the 4 experts: 1, 2, 4"},
      {replaced(model, "\"num_experts\": 4, \"n_group\": 2, \"topk_group\": 3"), "there are only 2 groups"},
      {replaced(model, "\"num_experts\": 4, \"num_key_value_heads\": 3"), "must divide the 4 query heads: 1, 2, 4"},
      {replaced(model, "\"num_experts\": 4, \"head_dim\": 7"), "width of a head is 7 but must be even"},
      {replaced(model, "\"num_experts\": 4, \"scoring_func\": \"relu\""), "must be one of \"softmax\", \"sigmoid\""},
      {replaced(model, "\"num_experts\": 4, \"tie_word_embeddings\": 1"), "is 1 but must be true or false"},
      {replaced(model, "\"num_experts\": 4, \"shared_expert_gate\": true"), "needs a shared expert"},
      {replaced("\"seq_len\": 32", "\"seq_len\": 128"), "train.seq_len is 128 but model.max_position_embeddings is 64"},
      {replaced("\"2k\"", "\"2 furlongs\""), "train.batch_tokens is \"2 furlongs\" but must be a number"},
      {replaced("\"2k\"", "2047"), "must be a multiple of train.seq_len, e.g. 2016"},
      {replaced("\"2k\"", "2048.5"), "must be a whole number"},
      {replaced("\"2k\"", "{}"), "train.batch_tokens is an object"},
      {replaced("\"granules\": 4", "\"granules\": 0"), "train.granules is 0 but must be an integer of at least 1"},
      {replaced("\"2k\", \"granules\": 4", "2048, \"granules\": 5"),
       "must divide the 64 sequences of a step: 1, 2, 4, 8"},
      {replaced("\"2k\", \"granules\": 4", "2048, \"micro_batch\": 3"),
       "whole granules of 16 sequences or an equal part"},
      {replaced("\"2k\", \"granules\": 4", "2048, \"micro_batch\": 8"),
       "a balance loss by granule needs whole granules"},
      {replaced("\"granules\": 4", "\"granules\": 4, \"on_spike\": \"stop\""),
       "must be one of \"log\", \"skip\", \"rollback\""},
      {replaced("\"granules\": 4", "\"granules\": 4, \"spike_z\": 0"),
       "train.spike_z is 0 but must be a number above 0"},
      {replaced("\"version\": 1", "\"version\": 2"), "version is 2 but must be 1"},
      {replaced("\"name\": \"a\", ", ""), "data.sources[0] needs a \"name\""},
      {replaced("\"files\": \"a.txt\"", "\"files\": 3"), "data.sources[0].files is 3 but must be a list"},
      {replaced("[ { \"name\"", "{ \"name\""), "not valid JSON"},
      {replaced("\"data\": {", "\"data\": { \"held_out\": { \"ngram\": 0 },"),
       "data.held_out.ngram is 0 but must be an integer from 1 to 100"},
      {replaced("\"data\": {", "\"data\": { \"on_bad_record\": \"ignore\","), "must be one of \"error\", \"skip\""},
      {replaced("\"data\": {", "\"data\": { \"held_out\": { \"max_overlap\": 2 },"),
       "data.held_out.max_overlap is 2 but must be a number from 0 to 1"},
      {replaced("\"stop\": { \"steps\": \"100 steps\" }", "\"stop\": { \"time\": \"10 min\" }"), "needs a length"},
      {replaced("\"100 steps\"", "\"10 parsecs\""), "train.stop.steps is \"10 parsecs\""},
      {replaced("\"100 steps\" }", "1 } , \"upcycle\": { \"noise\": -1 }"), "train.upcycle.noise is -1"},
      {replaced("\"version\": 1,", "\"version\": 1, \"optim\": { \"betas\": [0.9] },"),
       "optim.betas has 1 numbers but must have 2"},
      {replaced("\"version\": 1,", "\"version\": 1, \"optim\": { \"betas\": [0.9, 1.0] },"), "both must be below 1"},
      {replaced("\"version\": 1,", "\"version\": 1, \"optim\": { \"lr\": 0 },"),
       "optim.lr is 0 but must be a number above 0"},
      {replaced("\"version\": 1,", "\"version\": 1, \"optim\": { \"lr\": 1e-4, \"min_lr\": 1 },"),
       "optim.min_lr is 1 but optim.lr is 0.0001"},
      {replaced("\"version\": 1,", "\"version\": 1, \"optim\": { \"warmup\": 101 },"),
       "optim.warmup is 101 steps but the run has only 100"},
      {replaced("\"version\": 1,", "\"version\": 1, \"optim\": [],"), "optim is a list but must be an object"},
      {replaced("\"version\": 1,", "\"version\": 1, \"parallel\": { \"ep_size\": \"all\" },"),
       "must be \"auto\" or an integer"},
      {replaced("\"version\": 1,", "\"version\": 1,,"), "not valid JSON"},
      {replaced("\"version\": 1,", "\"version\": \xff,"), "not valid JSON"},
      {"[]", "a config is an object, not a list"},
      {"", "not valid JSON"},
      {std::string(kGood) + "x", "not valid JSON"},
      {std::string(kGood) + '\0' + "x", "there is a zero byte"},
      {std::string(100, '[') + std::string(100, ']'), "nested more than 64 deep"},
      {"{\"x-a\": \"" + std::string(2000000, 'x') + "\"}", "the text has 2000011 bytes"},
  };
  for (const Mistake& mistake : mistakes) {
    const std::string error = error_of(mistake.text);
    CHECK_MESSAGE(error.find(mistake.expected) != std::string::npos, "expected \"", mistake.expected, "\" in:\n",
                  error);
    CHECK(error.ends_with("nothing was started"));
  }
}

TEST_CASE("config: all mistakes at once, and a user's own keys are left alone") {
  std::string text = replaced("\"num_experts\": 4", "\"num_experts\": -1, \"x-note\": {\"any\": 1}, \"colour\": 3");
  const std::string error = error_of(text, {"optim.lr=fast", "nonsense"});
  CHECK(error.find("4 errors, nothing was started") != std::string::npos);
  CHECK(error.find("--set optim.lr=fast  error: optim.lr is \"fast\" but must be a number above 0") !=
        std::string::npos);
  CHECK(error.find("--set nonsense  error: expected KEY=VALUE") != std::string::npos);
  CHECK(error_of(kGood, {"model.colour=1"}).find("unknown key \"colour\" in model") != std::string::npos);
}

TEST_CASE("config: a file cut anywhere is refused and never read half") {
  const std::string text = kGood;
  for (size_t length = 0; length < text.size(); ++length) {
    const std::string error = error_of(text.substr(0, length));
    REQUIRE_MESSAGE(!error.empty(), "cut after ", length, " bytes");
  }
}

TEST_CASE("config: the largest model that is taken can be counted") {
  const std::string largest =
      "\"hidden_size\": 262144, \"num_hidden_layers\": 4096, \"num_attention_heads\": 4096, \"head_dim\": 4096, "
      "\"num_experts\": 1024, \"num_experts_per_tok\": 1024, \"moe_intermediate_size\": 262144, "
      "\"n_shared_experts\": 1024, \"vocab_size\": 16777216";
  const Config config =
      parse_config(replaced("\"hidden_size\": 64, \"num_attention_heads\": 4, \"num_experts\": 4", largest), "c.json",
                   {"train.batch_tokens=2048"});
  const double width = 262144, expert = 3 * width * width, layer = 4 * width * 4096 * 4096 + 2048 * expert;
  CHECK(static_cast<double>(count_parameters(config.model).total) == doctest::Approx(4096 * layer).epsilon(1e-3));
  CHECK(error_of(replaced("\"hidden_size\": 64", "\"hidden_size\": 262145")).find("262144") != std::string::npos);
}

TEST_CASE("config: comments end where the parser ends them, also before a carriage return and at the end of a file") {
  // the key that nobody knows is found behind the comment, and what only looks like one is none
  for (const char* comment : {"// a\r ", "// a\r\n ", "// \"b\" /*\r ", "/* // */ ", "/*/ */ ", "/***/ "}) {
    INFO(comment);
    const std::string text = std::string("{ ") + comment + "\"hiden\" : 1,\n\"version\": 1 }";
    const std::string line = std::string(comment).find('\n') == std::string::npos ? "1" : "2";
    const size_t column = line == "1" ? 3 + std::string(comment).size() : 2;
    CHECK(error_of(text).find("c.json:" + line + ":" + std::to_string(column) + " ") != std::string::npos);
  }
  CHECK(error_of("{ // a\r \"b\" : 1 }\n/*") != "");
  CHECK(error_of("{ // a\r \"b\" : 1 }\n/") != "");
}

TEST_CASE("config: rules about ranks name the values that would do") {
  Config config = parse_config(replaced("\"2k\"", "2048"), "c.json", {});
  CHECK(check_ranks(config, 4) == 4);
  CHECK(check_ranks(config, 3) == 3);
  CHECK_THROWS_WITH_AS(check_ranks(config, 5), doctest::Contains("train.granules is 4 but there are 5 ranks"), Error);
  config.parallel.ep_size.value = 3;
  CHECK_THROWS_WITH_AS(check_ranks(config, 4), "parallel.ep_size is 3 but must divide the 4 ranks: 1, 2, 4", Error);
}

TEST_CASE("config: units") {
  CHECK(parse_count("5M")->value == 5000000);
  CHECK(parse_count("1.5k tokens")->value == 1500);
  CHECK(!parse_count("1.5"));
  CHECK(parse_bytes("5 MB")->value == 5000000);
  CHECK(parse_bytes("4 MiB")->value == 4 << 20);
  CHECK(!parse_bytes("MB"));
  CHECK(parse_duration("10 min")->seconds == 600);
  CHECK(parse_duration("2 h")->seconds == 7200);
  CHECK(!parse_duration("10 fortnights"));
  CHECK(print_duration(92) == "1m32s");
}

TEST_CASE("config: every file in configs/ is valid and schema.json is fresh") {
  const std::string directory = std::string(std::getenv("DATA")) + "/configs";
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().filename() == "schema.json" || entry.path().extension() != ".json") continue;
    ++files;
    CHECK_NOTHROW_MESSAGE(load_config(entry.path().string(), {}), entry.path().string());
  }
  CHECK(files >= 8);
  CHECK_MESSAGE(read(directory + "/schema.json") == schema_json(),
                "run: build/switchyard config schema > configs/schema.json");
}

TEST_CASE("config: parameters of the published models") {
  const std::string directory = std::string(std::getenv("DATA")) + "/configs/";
  struct Published {
    const char* file;
    double total, active;
  };
  for (const Published& p :
       {Published{"mixtral_8x7b.json", 46.7e9, 12.9e9}, Published{"olmoe_1b_7b.json", 6.92e9, 1.28e9},
        Published{"qwen3_30b_a3b.json", 30.5e9, 3.35e9}}) {
    const ParameterCount count = count_parameters(load_config(directory + p.file, {}).model);
    CHECK(static_cast<double>(count.total) == doctest::Approx(p.total).epsilon(0.005));
    CHECK(static_cast<double>(count.active) == doctest::Approx(p.active).epsilon(0.01));
  }
  // DeepSeek-V3 (arXiv 2412.19437): 671.03e9, 37e9 active; its latent attention has 61 x 187.1e6, embedding and head
  // have 2 x 129280 x 7168. Ours has the same experts and dense layers, but ordinary attention.
  const ModelConfig v3 = load_config(directory + "deepseek_v3_moe.json", {}).model;
  const double embeddings = 2.0 * 129280 * 7168, latent = 61 * 187.1e6, ordinary = 61 * 4.0 * 7168 * 128 * 128;
  const ParameterCount count = count_parameters(v3);
  CHECK(static_cast<double>(count.total) - ordinary - embeddings ==
        doctest::Approx(671.03e9 - latent - embeddings).epsilon(0.0005));
  CHECK(static_cast<double>(count.active) - ordinary - embeddings ==
        doctest::Approx(37e9 - latent - embeddings).epsilon(0.03));
  ModelConfig bench = load_config(directory + "bench_cpu.json", {}).model;
  CHECK(3 * forward_flops_per_token(bench, 512) * 4096 == doctest::Approx(929e9).epsilon(0.002));
}
