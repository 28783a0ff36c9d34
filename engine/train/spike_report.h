// What to tell about a spike: how far out of line the step is, and the documents its samples come from.
#pragma once

#include <string>
#include <vector>

#include "engine/data/corpus.h"
#include "engine/data/sampler.h"
#include "engine/train/sample_order.h"
#include "engine/train/trainer.h"

namespace engine::train {

// "step 45 is a spike: loss 7.31 (34 robust deviations from the median), gradient norm 12.5 (8)"
std::string spike_text(const StepResult& result);

// "a.txt, b.jsonl:17 and 3 more": where the tokens of these samples stand.
std::string documents_of(const std::vector<SampleOrder::Range>& samples, const data::Corpus& corpus,
                         const data::Sampler& sampler, int64_t seq_len);

}  // namespace engine::train
