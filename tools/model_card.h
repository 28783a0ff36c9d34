// README.md of an exported model: what it is, what it was trained on, where it comes from.
#pragma once

#include <string>

#include "engine/huggingface/family.h"
#include "engine/train/loaded_model.h"

namespace tools {

std::string model_card(const std::string& name, engine::train::LoadedModel& loaded,
                       const engine::huggingface::Family& family);

}  // namespace tools
