// config.json of a transformers directory as a model of ours.
//
// Every key is either understood, or known to have no effect on what is computed, or refused by name: a key that is
// passed over in silence is how converters come to compute another model. Both spellings are read: that of
// transformers 4 (rope_theta, torch_dtype) and that of 5 (rope_parameters, dtype).
#pragma once

#include <string>

#include "engine/config/config.h"

namespace engine::huggingface {

// The model that DIRECTORY/config.json describes. The balance loss is the pooled one of transformers, with its
// coefficient. Throws Error(checkpoint) with all that this engine cannot compute.
ModelConfig read_model_config(const std::string& directory);

}  // namespace engine::huggingface
