#include "engine/config/check.h"

#include <algorithm>
#include <set>

namespace engine {
namespace {

// Where "a.b.c" stands in the file, or the deepest part of it that does.
struct Place {
  JsonPosition position;
  std::string origin;
};
Place place_of(const JsonValue& root, std::string path) {
  const JsonValue* at = &root;
  Place place{root.position, ""};
  while (!path.empty()) {
    const size_t dot = path.find('.');
    at = at->find(path.substr(0, dot));
    if (at == nullptr) return place;
    place = {at->position, at->origin};
    path = dot == std::string::npos ? "" : path.substr(dot + 1);
  }
  return place;
}

class Checker {
 public:
  Checker(const JsonValue& root, Problems& problems) : root_(root), problems_(problems) {}
  template <class... Parts>
  void require(bool holds, const std::string& key, const Parts&... message) {
    if (holds) return;
    const Place place = place_of(root_, key);
    problems_.add(place.position, place.origin, str(message...));
  }

 private:
  const JsonValue& root_;
  Problems& problems_;
};

std::string divisors(int64_t n) {
  constexpr int64_t kMost = 4096;
  std::string list;
  for (int64_t d = 1; d <= std::min(n, kMost); ++d) {
    if (n % d == 0) list += (list.empty() ? "" : ", ") + std::to_string(d);
  }
  return n > kMost ? list + ", ..." : list;
}

void check_model(const ModelConfig& m, Checker& check) {
  check.require(m.num_attention_heads % m.kv_heads() == 0, "model.num_key_value_heads", "model.num_key_value_heads is ",
                m.kv_heads(), " but must divide the ", m.num_attention_heads,
                " query heads: ", divisors(m.num_attention_heads));
  check.require(m.head_dim.has_value() || m.hidden_size % m.num_attention_heads == 0, "model.num_attention_heads",
                "model.hidden_size is ", m.hidden_size, " and cannot be divided into ", m.num_attention_heads,
                " heads; change one of them or give model.head_dim");
  check.require(m.head_size() % 2 == 0, "model.head_dim", "the width of a head is ", m.head_size(),
                " but must be even, since positions rotate pairs");
  check.require(m.rope_theta >= 1, "model.rope_theta", "model.rope_theta is ", m.rope_theta, " but must be at least 1");
  if (m.num_moe_layers() == 0) return;
  check.require(m.num_experts_per_tok <= m.num_experts, "model.num_experts_per_tok", "model.num_experts_per_tok is ",
                m.num_experts_per_tok, " but there are only ", m.num_experts, " experts");
  check.require(m.num_experts <= 1024, "model.num_experts", "model.num_experts is ", m.num_experts,
                " but at most 1024 are supported");
  check.require(m.num_experts % m.n_group == 0, "model.n_group", "model.n_group is ", m.n_group,
                " but must divide the ", m.num_experts, " experts: ", divisors(m.num_experts));
  check.require(m.topk_group <= m.n_group, "model.topk_group", "model.topk_group is ", m.topk_group,
                " but there are only ", m.n_group, " groups (model.n_group)");
  check.require(m.num_experts % m.n_group != 0 || m.topk_group * (m.num_experts / m.n_group) >= m.num_experts_per_tok,
                "model.topk_group", m.topk_group, " groups of ", m.num_experts / m.n_group, " experts cannot give ",
                m.num_experts_per_tok, " choices; raise model.topk_group");
  check.require(!m.shared_expert_gate || m.n_shared_experts > 0, "model.shared_expert_gate",
                "model.shared_expert_gate needs a shared expert; set model.n_shared_experts");
  check.require(m.router.aux_loss_kind != "hf" || m.router.aux_loss_scope == "granule", "model.router.aux_loss_kind",
                "model.router.aux_loss_kind \"hf\" is only defined with aux_loss_scope \"granule\"");
}

void check_batch(const Config& c, Checker& check) {
  const TrainingConfig& t = c.train;
  check.require(t.seq_len <= c.model.max_position_embeddings, "train.seq_len", "train.seq_len is ", t.seq_len,
                " but model.max_position_embeddings is ", c.model.max_position_embeddings,
                "; lower the first or raise the second");
  if (c.batch_tokens() % t.seq_len != 0) {
    const int64_t below = c.batch_tokens() / t.seq_len * t.seq_len;
    check.require(false, "train.batch_tokens", "train.batch_tokens is ", c.batch_tokens(),
                  " but must be a multiple of train.seq_len, e.g. ", below == 0 ? t.seq_len : below);
    return;
  }
  const int64_t sequences = c.sequences_per_step();
  check.require(t.granules <= 2048, "train.granules", "train.granules is ", t.granules, " but may be 2048 at most");
  if (sequences % t.granules != 0) {
    check.require(false, "train.granules", "train.granules is ", t.granules, " but must divide the ", sequences,
                  " sequences of a step: ", divisors(sequences));
    return;
  }
  const int64_t each = c.sequences_per_granule(), pass = c.sequences_per_pass();
  const bool whole = pass % each == 0;
  check.require(whole || each % pass == 0, "train.micro_batch", "train.micro_batch is ", pass,
                " but must be whole granules of ", each, " sequences or an equal part of one");
  const RouterConfig& r = c.model.router;
  const bool needs_granule =
      c.model.num_moe_layers() > 0 && (r.capacity_factor || (r.aux_loss_coef > 0 && r.aux_loss_scope != "sequence"));
  const char* reason = r.capacity_factor              ? "capacity"
                       : r.aux_loss_scope == "global" ? "a balance loss over the global batch"  // its first step
                                                      : "a balance loss by granule";
  check.require(whole || !needs_granule, "train.micro_batch", "train.micro_batch is ", pass, " but ", reason,
                " needs whole granules of ", each, " sequences; raise it or train.granules");
}

void check_run(const Config& c, Checker& check) {
  const StopConfig& stop = c.train.stop;
  const bool has_length = stop.steps.has_value() || stop.tokens.has_value();
  check.require(c.optim.schedule == "constant" || has_length || !stop.time, "optim.schedule", "optim.schedule \"",
                c.optim.schedule, "\" needs a length; set train.stop.steps or train.stop.tokens, or use \"constant\"");
  check.require(c.optim.betas.size() == 2, "optim.betas", "optim.betas has ", c.optim.betas.size(),
                " numbers but must have 2");
  for (double beta : c.optim.betas) {
    check.require(beta < 1, "optim.betas", "optim.betas holds ", beta, " but both must be below 1");
  }
  check.require(!stop.steps || c.optim.warmup.value <= stop.steps->value, "optim.warmup", "optim.warmup is ",
                c.optim.warmup.value, " steps but the run has only ", stop.steps ? stop.steps->value : 0,
                "; lower it or raise train.stop.steps");
  check.require(c.optim.min_lr <= c.optim.lr, "optim.min_lr", "optim.min_lr is ", c.optim.min_lr, " but optim.lr is ",
                c.optim.lr, "; a schedule falls to min_lr, so it must not be above lr");
  check.require(c.data.sources.empty() || c.model.vocabulary() >= 256, "model.vocab_size", "model.vocab_size is ",
                c.model.vocabulary(), " but text is read as bytes, which needs at least 256; leave it out");
  const FilterConfig& filters = c.data.filters;
  check.require(filters.min_compression.value_or(0) <= filters.max_compression.value_or(1e300),
                "data.filters.min_compression", "data.filters.min_compression is ", filters.min_compression.value_or(0),
                " but max_compression is ", filters.max_compression.value_or(0), "; no document would be left");
  std::set<std::string> names;
  for (const SourceConfig& source : c.data.sources) {
    check.require(names.insert(source.name).second, "data.sources", "two sources are called \"", source.name, "\"");
  }
  for (const SourceConfig& source : c.data.ood) {
    check.require(names.insert(source.name).second, "data.ood", "two sources are called \"", source.name, "\"");
  }
  check.require(c.parallel.overlap_chunks <= 8, "parallel.overlap_chunks", "parallel.overlap_chunks is ",
                c.parallel.overlap_chunks, " but may be 8 at most");
}

}  // namespace

void resolve(Config& config) {
  if (!config.model.vocab_size) config.model.vocab_size = 257;
}

void check_config(const Config& config, const JsonValue& root, Problems& problems) {
  Checker check(root, problems);
  check_model(config.model, check);
  check_batch(config, check);
  check_run(config, check);
}

int64_t check_ranks(const Config& config, int ranks) {
  if (config.train.granules < ranks) {
    throw Error(ExitCode::usage, str("train.granules is ", config.train.granules, " but there are ", ranks,
                                     " ranks; use fewer ranks, or set train.granules to at least ", ranks,
                                     " (another number of granules is another training)"));
  }
  const int64_t experts = config.model.num_moe_layers() > 0 ? config.model.num_experts : 1;
  if (!config.parallel.ep_size.value) {
    int64_t size = 1;
    for (int64_t d = 1; d <= ranks; ++d) size = ranks % d == 0 && d <= experts ? d : size;
    return size;
  }
  const int64_t size = *config.parallel.ep_size.value;
  if (ranks % size != 0) {
    throw Error(ExitCode::usage,
                str("parallel.ep_size is ", size, " but must divide the ", ranks, " ranks: ", divisors(ranks)));
  }
  if (size > experts) {
    throw Error(ExitCode::usage, str("parallel.ep_size is ", size, " but there are only ", experts, " experts"));
  }
  return size;
}

}  // namespace engine
