// A trainer's state in and out of checkpoints, and which checkpoint a run goes on from.
#pragma once

#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/config/config.h"
#include "engine/train/trainer.h"

namespace engine::train {

enum class Resume { automatic, must, never, path };

// The checkpoint to go on from, "" for a new run. Damaged ones that were passed over are added to `problems`.
// Throws Error(checkpoint) if that is not what `resume` allows.
std::string checkpoint_to_resume(const std::string& directory, Resume resume, const std::string& resume_path,
                                 std::vector<std::string>& problems);

// What a checkpoint of the trainer holds; run and lineage are left to whoever knows them.
checkpoint::SaveRequest save_request(Trainer& trainer);

// Collective. Weights, moments, balance state, gradient bounds, step and digest. The config of the checkpoint may
// differ only where a continuation may: ranks, passes, schedule, evaluation, reporting, data.
void restore_trainer(Trainer& trainer, const std::string& path);

// Throws Error(checkpoint) with the first key that may not differ and does.
void check_same_training(const Config& ours, const Config& saved);

}  // namespace engine::train
