// Training text that repeats what a model is evaluated on would make its scores better than the model is.
#pragma once

#include "engine/data/corpus.h"

namespace engine::data {

inline constexpr char kContaminated[] = "more overlap with evaluation text than held_out.max_overlap";

// Leaves every training document out of whose distinct runs of held_out.ngram words more than the share
// held_out.max_overlap stand in held-out or out-of-distribution text of any source; of documents of more than some
// millions of runs a part of them is looked at. A source without a training document left throws Error(data).
void decontaminate(DocumentSets& sets, const HeldOutConfig& config);

}  // namespace engine::data
