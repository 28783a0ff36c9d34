#include "engine/huggingface/weight_files.h"

#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "engine/checkpoint/file_system.h"
#include "engine/core/error.h"
#include "engine/huggingface/export.h"
#include "tests/support/compare.h"
#include "tests/support/temporary_directory.h"

using namespace engine;
using huggingface::WeightFiles;
namespace fs = std::filesystem;

namespace {

const char kUp[] = "model.layers.0.mlp.experts.0.up_proj.weight";

// Some weights of a Mixtral, each filled with values of its own.
struct Weights {
  Weights() {
    family.model_type = "mixtral", family.architecture = "MixtralForCausalLM";
    add("model.embed_tokens.weight", {7, 4});
    add("model.norm.weight", {4});
    for (int e = 0; e < 3; ++e) add("model.layers.0.mlp.experts." + std::to_string(e) + ".up_proj.weight", {5, 4});
    store.commit(1, false);
    for (nn::Parameter& p : store.all()) {
      const std::vector<float> values = test::values(static_cast<uint64_t>(p.begin) + 1, p.elements);
      std::copy(values.begin(), values.end(), p.weight.f32());
    }
  }
  void add(const std::string& name, std::vector<int64_t> dims) { store.add({.name = name, .dims = std::move(dims)}); }
  void write(const std::string& directory, int64_t shard_bytes = 1 << 20, DType dtype = DType::f32) {
    huggingface::write_directory(directory, {.family = family,
                                             .model = &model,
                                             .store = &store,
                                             .end_token = {},
                                             .card = "# card\n",
                                             .dtype = dtype,
                                             .shard_bytes = shard_bytes});
  }
  huggingface::Family family;
  ModelConfig model;
  nn::ParameterStore store;
};

void clear(nn::ParameterStore& store) {
  for (nn::Parameter& p : store.all()) std::fill(p.weight.f32(), p.weight.f32() + p.elements, -1.0f);
}

void check_equal(const nn::ParameterStore& a, const nn::ParameterStore& b) {
  for (size_t i = 0; i < a.all().size(); ++i) {
    const nn::Parameter &x = a.all()[i], &y = b.all()[i];
    test::check_same_bits({x.weight.f32(), x.weight.f32() + x.elements}, {y.weight.f32(), y.weight.f32() + y.elements},
                          x.spec.name);
  }
}

std::string refusal(const std::string& directory, const Weights& w) {
  try {
    WeightFiles(directory).check(w.family, w.store);
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::checkpoint);
    return error.what();
  }
  return "it was read";
}

std::string text_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

void replace_in(const std::string& path, const std::string& part, const std::string& with) {
  std::string text = text_of(path);
  const size_t at = text.find(part);
  REQUIRE(at != std::string::npos);
  REQUIRE(part.size() == with.size());
  text.replace(at, part.size(), with);
  std::ofstream(path, std::ios::binary) << text;
}

}  // namespace

TEST_CASE("weight_files: one file and many shards give every weight back, bit for bit") {
  const test::TemporaryDirectory place;
  for (int64_t shard_bytes : {int64_t{1} << 20, int64_t{60}}) {
    Weights written, read;
    const std::string directory = place.path() + "/" + std::to_string(shard_bytes);
    written.write(directory, shard_bytes);
    CHECK(fs::exists(directory + "/model.safetensors.index.json") == (shard_bytes == 60));
    clear(read.store);
    WeightFiles(directory).load(read.family, read.store);
    check_equal(read.store, written.store);
  }
}

TEST_CASE("weight_files: bf16 holds what is rounded to nearest, ties to even") {
  const test::TemporaryDirectory place;
  Weights written, read;
  float* w = written.store.all()[0].weight.f32();
  const std::vector<std::pair<float, float>> cases = {{1.0f, 1.0f},
                                                      {1.00390625f, 1.0f},  // a tie: the even neighbour below
                                                      {1.01171875f, 1.015625f},
                                                      {-1.00390637f, -1.0078125f},  // a tie to above; just beyond a tie
                                                      {3.38e38f, 254 * 0x1p120f},
                                                      {1e-40f, 0x1p-133f}};
  for (size_t i = 0; i < cases.size(); ++i) w[i] = cases[i].first;
  written.write(place.path() + "/bf16", 1 << 20, DType::bf16);
  WeightFiles(place.path() + "/bf16").load(read.family, read.store);
  for (size_t i = 0; i < cases.size(); ++i) CHECK(read.store.all()[0].weight.f32()[i] == cases[i].second);
}

TEST_CASE("weight_files: a tensor missing, too many, renamed or of another shape is named") {
  const test::TemporaryDirectory place;
  Weights w;
  w.write(place.path() + "/hf");
  {
    Weights more;
    more.add("model.layers.0.mlp.experts.3.up_proj.weight", {5, 4});
    const std::string message = refusal(place.path() + "/hf", more);
    CHECK(message.find("block_sparse_moe.experts.3.w3.weight is missing") != std::string::npos);
  }
  {
    Weights other;
    other.family.model_type = "olmoe";  // does not rename
    const std::string message = refusal(place.path() + "/hf", other);
    CHECK(message.find(std::string(kUp) + " is missing") != std::string::npos);
    CHECK(message.find("block_sparse_moe.experts.0.w3.weight is no weight of this model") != std::string::npos);
  }
  const std::string file = place.path() + "/hf/model.safetensors";
  replace_in(file, "\"shape\":[5,4]", "\"shape\":[4,5]");
  CHECK(refusal(place.path() + "/hf", w).find("w3.weight is 4 x 5 but should be 5 x 4") != std::string::npos);
}

TEST_CASE("weight_files: an expert that is there twice is refused") {
  const test::TemporaryDirectory place;
  Weights w;
  w.write(place.path() + "/hf", 60);
  const std::string first = place.path() + "/hf/model-00003-of-00005.safetensors",
                    second = place.path() + "/hf/model-00004-of-00005.safetensors";
  fs::copy_file(first, second, fs::copy_options::overwrite_existing);
  CHECK(refusal(place.path() + "/hf", w).find("but must be there once") != std::string::npos);
}

TEST_CASE("weight_files: an index that leads elsewhere is refused") {
  const test::TemporaryDirectory place;
  Weights w;
  const std::string directory = place.path() + "/hf", index = directory + "/model.safetensors.index.json";
  w.write(directory, 60);
  const std::string text = text_of(index);
  replace_in(index, "model-00001-of-00005.safetensors", "../../../../../etc/password.json");
  CHECK(refusal(directory, w).find("which is not a file name") != std::string::npos);
  std::ofstream(index) << text;
  replace_in(index, "model-00001-of-00005.safetensors", "model-00002-of-00005.safetensors");
  CHECK(refusal(directory, w).find("has no tensor") != std::string::npos);
  std::ofstream(index) << text;
  fs::remove(directory + "/model-00005-of-00005.safetensors");
  CHECK_THROWS_AS(WeightFiles(directory).check(w.family, w.store), Error);
}

TEST_CASE("weight_files: what is not finite is refused") {
  const test::TemporaryDirectory place;
  Weights w, read;
  w.store.all()[1].weight.f32()[2] = std::numeric_limits<float>::quiet_NaN();
  w.write(place.path() + "/hf");
  CHECK_THROWS_WITH_AS(WeightFiles(place.path() + "/hf").load(read.family, read.store),
                       doctest::Contains("model.norm.weight"), Error);
}

TEST_CASE("weight_files: nothing is overwritten by an export, and nothing half is left") {
  const test::TemporaryDirectory place;
  Weights w;
  fs::create_directories(place.path() + "/.tmp-hf");  // of an attempt that was interrupted
  w.write(place.path() + "/hf/");
  CHECK_THROWS_AS(w.write(place.path() + "/hf"), Error);
  CHECK(std::distance(fs::directory_iterator(place.path()), {}) == 1);
  CHECK(text_of(place.path() + "/hf/README.md") == "# card\n");
}
