// A trainer's state in and out of checkpoints, and which checkpoint a run goes on from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/config/config.h"
#include "engine/train/config_change.h"
#include "engine/train/trainer.h"

namespace engine::train {

enum class Resume { automatic, must, never, path };

// How a run begins or goes on.
struct ResumeOptions {
  Resume mode = Resume::automatic;
  std::string path{};                       // with Resume::path
  std::optional<int64_t> rollback{};        // to the checkpoint of this step, whatever `mode` says
  std::vector<std::string> allow_change{};  // keys of identity that may differ all the same; "data": also the text
};

// Whether a checkpoint is one of the directory's.
bool lies_in(const std::string& checkpoint, const std::string& directory);

// Collective. The checkpoint to go on from, "" for a new run; it was verified. Damaged ones that were passed over are
// added to `problems`. Throws Error(checkpoint) if that is not what the options allow: a run never begins anew where
// checkpoints are, or were being written, unless Resume::never says so.
std::string checkpoint_to_resume(const std::string& directory, const ResumeOptions& options,
                                 std::vector<std::string>& problems, comm::Group& world);

// What a checkpoint of the trainer holds; run, text and lineage are left to whoever knows them.
checkpoint::SaveRequest save_request(Trainer& trainer);

// Collective. Weights, moments, balance state, gradient bounds, step, digest, what was excluded. The config and the
// text may differ from those of the checkpoint as config_change.h says; returns in what they do.
std::vector<ConfigChange> restore_trainer(Trainer& trainer, const std::string& path, const std::string& text_hash = "",
                                          const std::vector<std::string>& allow_change = {});

}  // namespace engine::train
