#include "engine/huggingface/weight_files.h"

#include <unistd.h>

#include <cmath>
#include <set>
#include <vector>

#include "engine/checkpoint/weight_index.h"
#include "engine/core/error.h"
#include "engine/core/transfer.h"

namespace engine::huggingface {
namespace {

const char kSingle[] = "model.safetensors";

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (int64_t dim : shape) text += (text.empty() ? "" : " x ") + std::to_string(dim);
  return text;
}

}  // namespace

WeightFiles::WeightFiles(const std::string& directory) : directory_(directory) {
  if (access((directory + "/" + checkpoint::kWeightIndex).c_str(), F_OK) != 0) {
    add(directory, kSingle);
    return;
  }
  const std::map<std::string, std::string> index = checkpoint::read_weight_index(directory);
  std::set<std::string> files;
  for (const auto& [tensor, file] : index) files.insert(file);
  for (const std::string& file : files) add(directory, file);
  for (const auto& [tensor, file] : index) {
    const auto found = tensors_.find(tensor);
    if (found == tensors_.end() || found->second.file->name() != file) {
      throw Error(ExitCode::checkpoint, str(directory, "/", file, " has no tensor ", tensor, " but ",
                                            checkpoint::kWeightIndex, " says so; get the directory again"));
    }
  }
}

void WeightFiles::add(const std::string& directory, const std::string& file) {
  const checkpoint::SafetensorsFile& opened = files_.emplace_back(directory, file);
  for (const auto& entry : opened.entries()) {
    const auto [other, is_new] = tensors_.insert({entry.name, Place{&opened, &entry}});
    if (is_new) continue;
    throw Error(ExitCode::checkpoint, str(directory, ": ", entry.name, " is in ", other->second.file->name(),
                                          " and in ", file, " but must be there once"));
  }
}

void WeightFiles::check(const Family& family, const nn::ParameterStore& store) const {
  std::vector<std::string> problems;
  std::set<std::string> wanted;
  for (const nn::Parameter& parameter : store.all()) {
    const std::string name = file_name(family, parameter.spec.name);
    wanted.insert(name);
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      problems.push_back(name + " is missing");
      continue;
    }
    const auto& entry = *found->second.entry;
    if (entry.shape != parameter.spec.dims) {
      problems.push_back(
          str(name, " is ", shape_text(entry.shape), " but should be ", shape_text(parameter.spec.dims)));
    } else if (entry.dtype != "F32" && entry.dtype != "BF16" && entry.dtype != "F16") {
      problems.push_back(str(name, " is ", entry.dtype, " but should be F32, BF16 or F16"));
    }
  }
  for (const auto& [name, place] : tensors_) {
    if (!wanted.contains(name)) problems.push_back(name + " is no weight of this model");
  }
  if (problems.empty()) return;
  std::string list;
  constexpr size_t kMost = 8;
  for (size_t i = 0; i < std::min(problems.size(), kMost); ++i) list += (i > 0 ? "; " : "") + problems[i];
  if (problems.size() > kMost) list += str("; and ", problems.size() - kMost, " more");
  throw Error(ExitCode::checkpoint, str("the weights in ", directory_, " are not those of its config.json: ", list));
}

void WeightFiles::load(const Family& family, nn::ParameterStore& store) const {
  check(family, store);
  for (nn::Parameter& parameter : store.all()) {
    const Place& place = tensors_.at(file_name(family, parameter.spec.name));
    HostEdit draft(parameter.weight, HostEdit::From::zeros);
    const float* weight = draft.f32();
    place.file->read(*place.entry, 0, parameter.elements, draft.f32());
    for (int64_t i = 0; i < place.entry->elements(); ++i) {
      if (std::isfinite(weight[i])) continue;
      throw Error(ExitCode::checkpoint, str(place.entry->name, " in ", directory_, " is not finite at element ", i));
    }
    draft.put();
  }
  store.weights_changed();
}

}  // namespace engine::huggingface
