// train.init_from: the weights a training begins with, when they are not drawn.
#pragma once

#include <string>

#include "engine/train/trainer.h"

namespace engine::train {

// Weights (and expert biases) only, from the run, checkpoint or transformers directory that config.train.init_from
// names; to be called before begin_digest(). The two models have to compute the same; a dense model may also become a
// mixture (upcycling, Komatsuzaki et al., "Sparse upcycling", 2023): every expert begins as a copy of the layer's FFN,
// routers as drawn, so that with weights that sum to one the loss is that of the dense model. Throws Error(checkpoint)
// with all differences. Returns a sentence for the console.
std::string load_initial_weights(Trainer& trainer);

}  // namespace engine::train
