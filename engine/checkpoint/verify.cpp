// Whether a checkpoint is whole: its bytes, then what they mean.
#include <algorithm>
#include <map>

#include "comm/text.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/file_system.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/checkpoint/weight_index.h"
#include "engine/config/parameter_count.h"
#include "engine/config/reader.h"
#include "engine/core/error.h"

namespace engine::checkpoint {
namespace {

using Problems = std::vector<std::string>;

template <class Check>
void collect(Problems& problems, Check check) {
  try {
    check();
  } catch (const Error& error) {
    if (error.code() == ExitCode::stopped) throw;
    problems.push_back(error.what());
  }
}

// Every rank hashes its share of the files.
void check_hashes(const Reader& reader, int rank, int ranks, Problems& problems) {
  int number = 0;
  for (const auto& [name, file] : reader.manifest().files) {
    if (number++ % ranks != rank) continue;
    collect(problems, [&, &name = name, &file = file] {
      if (ExistingFile(reader.path(), name, reader.storage()).sha256_hex() == file.sha256) return;
      problems.push_back(str(reader.path(), "/", name, " is damaged: its SHA-256 differs from the manifest's"));
    });
  }
}

void check_strays(const Reader& reader, Problems& problems) {
  for (const std::string& name : Directory::open(reader.path(), reader.storage()).names()) {
    if (name == "COMMIT" || name == "manifest.json" || reader.manifest().files.contains(name)) continue;
    problems.push_back(str(reader.path(), "/", name, " does not belong to the checkpoint"));
  }
}

// The tensors that the manifest places in a file, by name, with their shapes.
using Shapes = std::map<std::string, std::vector<int64_t>>;
std::map<std::string, Shapes> tensors_by_file(const Manifest& manifest) {
  std::map<std::string, Shapes> files;
  for (const auto& [name, weight] : manifest.weights) files[weight.file][weight.tensor] = weight.shape;
  for (const auto& [name, ranges] : manifest.moments) {
    for (const Manifest::Moments& range : ranges) {
      for (const char* moment : {"exp_avg", "exp_avg_sq"}) {
        files[range.file][moment_tensor(moment, name, range.begin)] = {range.count};
      }
    }
  }
  return files;
}

// Each file holds what the manifest says, as floats, and nothing else.
void check_tensors(const Reader& reader, Problems& problems) {
  const std::map<std::string, Shapes> files = tensors_by_file(reader.manifest());
  for (const auto& [file, shapes] : files) {
    const SafetensorsFile& tensors = reader.tensors(file);
    for (const auto& [name, shape] : shapes) {
      const SafetensorsFile::Entry* entry = tensors.find(name);
      if (entry == nullptr) {
        problems.push_back(str(reader.path(), "/", file, " lacks ", name));
      } else if (entry->dtype != "F32" || entry->shape != shape) {
        problems.push_back(
            str(reader.path(), "/", file, ": ", name, " has another dtype or shape than in the manifest"));
      }
    }
    for (const SafetensorsFile::Entry& entry : tensors.entries()) {
      if (shapes.contains(entry.name)) continue;
      problems.push_back(str(reader.path(), "/", file, " holds ", entry.name, ", which the manifest does not know"));
    }
  }
  for (const auto& [name, file] : reader.manifest().files) {
    if (!name.ends_with(".safetensors") || files.contains(name)) continue;
    problems.push_back(str(reader.path(), "/", name, " holds no tensor that the manifest knows"));
  }
}

// transformers finds the same weights in the same files.
void check_index(const Reader& reader, Problems& problems) {
  std::map<std::string, std::string> expected;
  for (const auto& [name, weight] : reader.manifest().weights) expected[weight.tensor] = weight.file;
  const std::map<std::string, std::string> index = read_weight_index(reader.path(), reader.storage());
  if (index == expected) return;
  for (const auto& [tensor, file] : expected) {
    const auto found = index.find(tensor);
    if (found != index.end() && found->second == file) continue;
    problems.push_back(str(reader.path(), "/", kWeightIndex, " does not place ", tensor, " in ", file));
  }
  for (const auto& [tensor, file] : index) {
    if (!expected.contains(tensor))
      problems.push_back(str(reader.path(), "/", kWeightIndex, " names ", tensor, ", which is not there"));
  }
}

// "model.layers.3.mlp.experts.5.up_proj.weight" -> "model.layers.3.mlp.experts.5", "" if it is no expert's.
std::string expert_of(const std::string& weight) {
  const std::string part = ".mlp.experts.";
  const size_t at = weight.find(part);
  return at == std::string::npos ? "" : weight.substr(0, weight.find('.', at + part.size()));
}

// Every expert of every layer with its three projections, and as many elements as the config says.
void check_model(const Reader& reader, Problems& problems) {
  const ModelConfig model = parse_config(reader.state().config, reader.path() + "/state.json", {}).model;
  std::map<std::string, int> projections;
  for (const auto& [name, weight] : reader.manifest().weights) {
    if (const std::string expert = expert_of(name); !expert.empty()) ++projections[expert];
  }
  for (int64_t layer = 0; layer < model.num_hidden_layers; ++layer) {
    for (int64_t expert = 0; model.is_moe_layer(layer) && expert < model.num_experts; ++expert) {
      const std::string name = str("model.layers.", layer, ".mlp.experts.", expert);
      const int found = projections[name];
      if (found != 3) problems.push_back(str(reader.path(), " holds ", found, " of the 3 projections of ", name));
      projections.erase(name);
    }
  }
  for (const auto& [name, found] : projections) {
    problems.push_back(str(reader.path(), " holds ", name, ", but its config has no such expert"));
  }
  const int64_t expected = count_parameters(model).total, elements = reader.manifest().elements();
  if (elements != expected) {
    problems.push_back(str(reader.path(), " holds ", elements, " elements of weights but its config makes ", expected));
  }
}

Problems problems_of_rank(const std::string& path, Storage& storage, int rank, int ranks) {
  Problems problems;
  collect(problems, [&] {
    const Reader reader(path, storage);
    check_hashes(reader, rank, ranks, problems);
    if (rank == 0) check_strays(reader, problems);
    if (rank == 0 && problems.empty()) {
      check_tensors(reader, problems);
      check_index(reader, problems);
      check_model(reader, problems);
    }
  });
  return problems;
}

// The problems of all ranks in the order of ranks, each once.
Problems gather(const Problems& mine, comm::Group& world) {
  std::string text;
  for (const std::string& problem : mine) text += problem + '\n';
  Problems all;
  for (const std::string& lines : comm::all_gather_text(world, text)) {
    for (size_t begin = 0; begin < lines.size(); begin = lines.find('\n', begin) + 1) {
      const std::string problem = lines.substr(begin, lines.find('\n', begin) - begin);
      if (std::find(all.begin(), all.end(), problem) == all.end()) all.push_back(problem);
    }
  }
  return all;
}

}  // namespace

std::vector<std::string> verify_checkpoint(const std::string& path, Storage& storage) {
  return problems_of_rank(path, storage, 0, 1);
}

std::vector<std::string> verify_checkpoint(const std::string& path, comm::Group& world) {
  Problems mine;
  int64_t stopped = 0;
  try {
    mine = problems_of_rank(path, system_storage(), world.rank(), world.size());
  } catch (const Error& error) {
    if (error.code() != ExitCode::stopped) throw;
    stopped = 1;
  }
  world.all_reduce_max(Tensor(&stopped, DType::i64, {1})).wait();
  if (stopped != 0) throw Error(ExitCode::stopped, str("stopped on request while ", path, " was read"));
  return gather(mine, world);
}

std::string newest_whole_checkpoint(const std::string& directory, std::vector<std::string>& problems,
                                    Storage& storage) {
  for (const std::string& name : list_checkpoints(directory, storage)) {
    const std::string path = directory + "/" + name;
    const Problems found = verify_checkpoint(path, storage);
    if (found.empty()) return path;
    problems.insert(problems.end(), found.begin(), found.end());
  }
  return "";
}

std::string newest_whole_checkpoint(const std::string& directory, std::vector<std::string>& problems,
                                    comm::Group& world) {
  // what the first rank sees; a directory may change while ranks look at it
  std::string names;
  for (const std::string& name : list_checkpoints(directory)) names += name + '\n';
  names = comm::all_gather_text(world, names).front();
  for (size_t begin = 0; begin < names.size(); begin = names.find('\n', begin) + 1) {
    const std::string path = directory + "/" + names.substr(begin, names.find('\n', begin) - begin);
    const Problems found = verify_checkpoint(path, world);
    if (found.empty()) return path;
    problems.insert(problems.end(), found.begin(), found.end());
  }
  return "";
}

}  // namespace engine::checkpoint
