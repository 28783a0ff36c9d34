#include "engine/train/spike_report.h"

#include <algorithm>
#include <cstdio>

#include "engine/core/error.h"
#include "engine/data/sample_places.h"

namespace engine::train {
namespace {

std::string score_text(const char* what, double value, const std::optional<double>& z) {
  char text[96];
  if (z) {
    std::snprintf(text, sizeof(text), "%s %.4g (%.1f robust deviations from the median)", what, value, *z);
  } else {
    std::snprintf(text, sizeof(text), "%s %.4g", what, value);
  }
  return text;
}

}  // namespace

std::string spike_text(const StepResult& result) {
  return str("step ", result.step, " is a spike: ", score_text("loss", result.loss, result.loss_z), ", ",
             score_text("gradient norm", result.grad_norm, result.grad_norm_z));
}

std::string documents_of(const std::vector<SampleOrder::Range>& samples, const data::Corpus& corpus,
                         const data::Sampler& sampler, int64_t seq_len) {
  std::vector<std::string> names;
  for (const SampleOrder::Range& range : samples) {
    for (int64_t sample = range.begin; sample < range.end; ++sample) {
      const data::Sampler::Place place = sampler.locate(sample);
      for (const data::SamplePiece& piece :
           data::find_pieces(corpus.sources[place.source].train, place.begin, seq_len + 1)) {
        const std::string name = piece.line > 0 ? str(piece.file, ":", piece.line) : piece.file;
        if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
      }
    }
  }
  constexpr size_t kMost = 8;
  std::string text;
  for (size_t i = 0; i < std::min(kMost, names.size()); ++i) text += (i > 0 ? ", " : "") + names[i];
  return names.size() > kMost ? str(text, " and ", names.size() - kMost, " more") : text;
}

}  // namespace engine::train
