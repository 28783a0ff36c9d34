// Every key of a config file: one line in the field list of the struct that owns it.
//
// A field list is read by visitors (fields.h): the reader with its errors, the schema writer, `config show` and
// `config explain`, the canonical form whose hash identifies a run. Rules between keys are in check.cpp.
// Names under `model` are those of Hugging Face's qwen3_moe.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/config/fields.h"

namespace engine {

struct RouterConfig {
  double aux_loss_coef = 0.001;
  std::string aux_loss_scope = "granule";
  std::string aux_loss_kind = "switch";
  double z_loss_coef = 0;
  double bias_update_rate = 0;
  double jitter = 0;
  std::optional<double> capacity_factor;
  std::string drop_policy = "probs";
  std::string force = "none";

  template <class Visitor>
  void fields(Visitor& v) {
    v("aux_loss_coef", aux_loss_coef, at_least(0.0), "weight of the load-balancing loss");
    v("aux_loss_scope", aux_loss_scope, one_of({"granule", "sequence", "global"}),
      "tokens over which balance is measured");
    v("aux_loss_kind", aux_loss_kind, one_of({"switch", "hf"}),
      "switch: per layer, 1 when balanced; hf: all layers pooled, num_experts_per_tok when balanced");
    v("z_loss_coef", z_loss_coef, at_least(0.0), "weight of the squared log-sum-exp of the router logits");
    v("bias_update_rate", bias_update_rate, at_least(0.0),
      "step of the bias that balances without a loss; 0 turns it off");
    v("jitter", jitter, between(0.0, 0.5), "the router's input is multiplied by 1 +- this, in training");
    v("capacity_factor", capacity_factor, above(0.0),
      "slots per expert relative to an even spread; null drops nothing");
    v("drop_policy", drop_policy, one_of({"probs", "position"}),
      "who keeps a slot: the largest weight or the earliest token");
    v("force", force, one_of({"none", "uniform"}), "uniform: round-robin choice, for benchmarks only");
  }
};

struct ModelConfig {
  int64_t hidden_size = 256;
  int64_t num_hidden_layers = 4;
  int64_t num_attention_heads = 4;
  std::optional<int64_t> num_key_value_heads;  // = num_attention_heads
  std::optional<int64_t> head_dim;             // = hidden_size / num_attention_heads
  std::optional<int64_t> vocab_size;           // from the tokenizer
  int64_t max_position_embeddings = 2048;
  double rope_theta = 10000.0;
  bool rope_interleave = false;
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  std::string qk_norm = "none";
  double initializer_range = 0.02;
  int64_t num_experts = 8;
  int64_t num_experts_per_tok = 2;
  int64_t moe_intermediate_size = 256;
  std::optional<int64_t> intermediate_size;  // of dense layers
  bool norm_topk_prob = true;
  int64_t decoder_sparse_step = 1;
  std::vector<int64_t> mlp_only_layers;
  int64_t first_k_dense_replace = 0;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  std::string scoring_func = "softmax";
  double routed_scaling_factor = 1.0;
  int64_t n_shared_experts = 0;
  bool shared_expert_gate = false;
  RouterConfig router;

  template <class Visitor>
  void fields(Visitor& v) {
    v("hidden_size", hidden_size, between(1, 262144), "width of the residual stream");
    v("num_hidden_layers", num_hidden_layers, between(1, 4096), "transformer blocks");
    v("num_attention_heads", num_attention_heads, between(1, 4096), "query heads");
    v("num_key_value_heads", num_key_value_heads, between(1, 4096), "key/value heads; null: as many as query heads");
    v("head_dim", head_dim, between(2, 4096), "width of one head; null: hidden_size / num_attention_heads");
    v("vocab_size", vocab_size, between(2, 16777216), "tokens the model knows; null: those of the tokenizer");
    v("max_position_embeddings", max_position_embeddings, at_least(1), "longest sequence");
    v("rope_theta", rope_theta, above(0.0), "base of the rotary position frequencies");
    v("rope_interleave", rope_interleave, any(), "rotate neighbouring pairs instead of the two halves of a head");
    v("rms_norm_eps", rms_norm_eps, above(0.0), "added to the mean square in RMSNorm");
    v("tie_word_embeddings", tie_word_embeddings, any(), "the LM head uses the embedding's weight");
    v("attention_bias", attention_bias, any(), "biases in the query, key and value projections");
    v("qk_norm", qk_norm, one_of({"none", "head", "full"}),
      "RMSNorm of queries and keys: per head (Qwen3) or over the whole projection (OLMoE)");
    v("initializer_range", initializer_range, above(0.0), "standard deviation of the initial matrices");
    v("num_experts", num_experts, at_least(0), "experts in each MoE layer; 0: a dense model");
    v("num_experts_per_tok", num_experts_per_tok, at_least(1), "experts chosen for each token");
    v("moe_intermediate_size", moe_intermediate_size, between(1, 262144), "width of one expert");
    v("intermediate_size", intermediate_size, between(1, 262144), "width of the FFN in dense layers");
    v("norm_topk_prob", norm_topk_prob, any(), "weights of the chosen experts sum to one");
    v("decoder_sparse_step", decoder_sparse_step, at_least(1),
      "layer i has experts when (i + 1) is a multiple of this");
    v("mlp_only_layers", mlp_only_layers, at_least(0), "layers that are dense all the same");
    v("first_k_dense_replace", first_k_dense_replace, at_least(0), "the first so many layers are dense");
    v("n_group", n_group, at_least(1), "groups the experts are divided into for group-limited routing");
    v("topk_group", topk_group, at_least(1), "groups a token may choose from");
    v("scoring_func", scoring_func, one_of({"softmax", "sigmoid"}), "router scores from logits");
    v("routed_scaling_factor", routed_scaling_factor, above(0.0), "factor on the routing weights");
    v("n_shared_experts", n_shared_experts, between(0, 1024),
      "experts every token passes, as one FFN of that many widths");
    v("shared_expert_gate", shared_expert_gate, any(), "a learned sigmoid gate on the shared expert");
    v("router", router, any(), "balance and capacity");
  }

  int64_t kv_heads() const { return num_key_value_heads.value_or(num_attention_heads); }
  int64_t head_size() const { return head_dim.value_or(hidden_size / num_attention_heads); }
  int64_t vocabulary() const { return vocab_size.value_or(0); }  // set by resolve()
  int64_t dense_intermediate() const { return intermediate_size.value_or(moe_intermediate_size); }
  bool is_moe_layer(int64_t layer) const;
  int64_t num_moe_layers() const;
};

struct TokenizerConfig {
  std::string kind = "bytes";

  template <class Visitor>
  void fields(Visitor& v) {
    v("kind", kind, one_of({"bytes"}), "bytes: ids 0 to 255 and 256 for the end of a document");
  }
};

struct SourceConfig {
  std::string name;
  std::vector<std::string> files;
  std::vector<std::string> exclude;
  double weight = 1;
  std::optional<ByteCount> max_bytes;
  std::string strip = "none";

  template <class Visitor>
  void fields(Visitor& v) {
    v("name", name, required(), "what reports call this source");
    v("files", files, required(),
      "a path, a directory, a glob (** crosses directories), \"-\" (standard input) or a list; relative to the config "
      "file");
    v("exclude", exclude, any(), "globs of files to leave out");
    v("weight", weight, above(0.0), "share of the training tokens relative to the other sources");
    v("max_bytes", max_bytes, above(0.0), "use at most this much text, e.g. \"5 MB\"");
    v("strip", strip, one_of({"none", "leading-comment"}),
      "leading-comment: drop the comment a file begins with (its licence)");
  }
};

struct HeldOutConfig {
  double fraction = 0.05;
  std::string split = "groups";
  int64_t ngram = 13;
  std::optional<double> max_overlap;

  template <class Visitor>
  void fields(Visitor& v) {
    v("fraction", fraction, between(0.0, 0.5), "share of each source kept for evaluation");
    v("split", split, one_of({"groups", "tail"}),
      "groups: whole near-duplicate groups of documents; tail: the end of each source");
    v("ngram", ngram, between(1, 100), "words in a run, by which the overlap of texts is measured");
    v("max_overlap", max_overlap, between(0.0, 1.0),
      "leave out documents of training of whose runs of words a larger share stands in held-out or out-of-distribution "
      "text, e.g. 0.02; null: none");
  }
};

struct FilterConfig {
  std::optional<double> max_digit_fraction;
  std::optional<ByteCount> min_bytes;
  std::string dedup = "exact";
  std::string control_characters = "keep";
  std::optional<double> max_line_share;
  std::optional<double> min_compression, max_compression;
  std::string unlike_source = "keep";
  std::vector<std::string> containing;

  template <class Visitor>
  void fields(Visitor& v) {
    v("max_digit_fraction", max_digit_fraction, between(0.0, 1.0),
      "leave out documents with a larger share of digits (tables)");
    v("min_bytes", min_bytes, at_least(0.0), "leave out shorter documents");
    v("dedup", dedup, one_of({"none", "exact"}), "exact: a document is used once, wherever it stands");
    v("control_characters", control_characters, one_of({"keep", "leave_out"}),
      "leave_out: no documents with invisible control or direction characters");
    v("max_line_share", max_line_share, between(0.0, 1.0), "leave out documents of which one line is a larger share");
    v("min_compression", min_compression, at_least(1.0),
      "leave out documents that zlib makes fewer times smaller (noise); text is above 1.4");
    v("max_compression", max_compression, at_least(1.0),
      "leave out documents that zlib makes more times smaller (repetition); text is below 15");
    v("unlike_source", unlike_source, one_of({"keep", "leave_out"}),
      "leave_out: no documents whose loss under a 3-gram model of their own source is extreme, as in data inspect");
    v("containing", containing, any(), "leave out documents with one of these texts in them");
  }
};

struct DataConfig {
  std::vector<SourceConfig> sources;
  std::vector<SourceConfig> ood;
  HeldOutConfig held_out;
  FilterConfig filters;
  std::string on_bad_record = "error";
  std::optional<std::string> cache_dir;

  template <class Visitor>
  void fields(Visitor& v) {
    v("sources", sources, any(), "texts to train on");
    v("ood", ood, any(), "texts of other kinds, only for evaluation");
    v("held_out", held_out, any(), "text kept out of training");
    v("filters", filters, any(), "documents left out");
    v("on_bad_record", on_bad_record, one_of({"error", "skip"}),
      "lines of .jsonl files that cannot be read: error ends with the line's number, skip counts and names them");
    v("cache_dir", cache_dir, any(),
      "keep the tokens here, found again by the content of the files, e.g. \"runs/cache\"; null: read anew each time");
  }
};

struct StopConfig {
  std::optional<Count> steps, tokens;
  std::optional<Duration> time;

  template <class Visitor>
  void fields(Visitor& v) {
    v("steps", steps, at_least(1.0), "optimizer steps");
    v("tokens", tokens, at_least(1.0), "training tokens, e.g. \"5M\"");
    v("time", time, above(0.0), "time of the run, e.g. \"10 min\"; only ends it, schedules do not follow it");
  }
};

// How a dense model becomes a mixture, when train.init_from names one.
struct UpcycleConfig {
  double noise = 0;
  double down_scale = 1;

  template <class Visitor>
  void fields(Visitor& v) {
    v("noise", noise, at_least(0.0),
      "standard deviation of what is added to each copy, relative to the root mean square of its weight");
    v("down_scale", down_scale, above(0.0),
      "factor on the copied down projections: num_experts / num_experts_per_tok where norm_topk_prob is false");
  }
};

struct TrainingConfig {
  int64_t seq_len = 256;
  Count batch_tokens{8192};
  std::optional<int64_t> micro_batch;
  int64_t granules = 4;
  bool document_mask = true;
  std::string precision = "fp32";
  std::string on_spike = "log";
  double spike_z = 10;
  StopConfig stop;
  std::optional<std::string> init_from;
  UpcycleConfig upcycle;

  template <class Visitor>
  void fields(Visitor& v) {
    v("seq_len", seq_len, at_least(1), "tokens of one sequence");
    v("batch_tokens", batch_tokens, at_least(1.0), "tokens of one step over all ranks");
    v("micro_batch", micro_batch, at_least(1),
      "sequences per rank and pass: whole granules or an equal part of one; null: whole granules of up to 2,048 "
      "tokens");
    v("granules", granules, at_least(1),
      "blocks of a step's batch that results are defined on; at least the number of ranks");
    v("document_mask", document_mask, any(), "attention and positions restart at each document");
    v("precision", precision, one_of({"fp32", "bf16"}),
      "of activations and products; bf16 needs a GPU. Weights, their gradients, the router and the optimizer are fp32");
    v("on_spike", on_spike, one_of({"log", "skip", "rollback"}),
      "a step whose loss or gradient norm is far out of line: say so, leave its update out (3 in a row at most), or go "
      "back to a checkpoint and on without its samples (3 times at most)");
    v("spike_z", spike_z, above(0.0),
      "how far that is: robust standard deviations from the median of the last 128 steps");
    v("stop", stop, any(), "when the run ends");
    v("init_from", init_from, any(),
      "weights to start from: a run, a checkpoint or a Hugging Face directory; relative to the config file");
    v("upcycle", upcycle, any(), "where init_from is a dense model and this one has experts: copies of its FFN");
  }
};

struct ParameterGroupConfig {
  std::string pattern;
  double lr_scale = 1;
  std::optional<double> weight_decay;

  template <class Visitor>
  void fields(Visitor& v) {
    v("pattern", pattern, required(), "names of weights, * stands for anything");
    v("lr_scale", lr_scale, at_least(0.0), "factor on the learning rate");
    v("weight_decay", weight_decay, at_least(0.0), "in place of optim.weight_decay");
  }
};

struct OptimizerConfig {
  double lr = 1e-3;
  double min_lr = 0;
  Count warmup{0};
  std::string schedule = "cosine";
  double decay_fraction = 0.2;
  double weight_decay = 0.1;
  std::vector<double> betas = {0.9, 0.95};
  double eps = 1e-8;
  double grad_clip = 1.0;
  std::vector<ParameterGroupConfig> groups;

  template <class Visitor>
  void fields(Visitor& v) {
    v("lr", lr, above(0.0), "learning rate after warm-up");
    v("min_lr", min_lr, at_least(0.0), "learning rate at the end of a decaying schedule");
    v("warmup", warmup, at_least(0.0), "steps of linear warm-up");
    v("schedule", schedule, one_of({"constant", "cosine", "linear", "wsd"}),
      "course of the learning rate after warm-up");
    v("decay_fraction", decay_fraction, between(0.0, 1.0), "wsd: share of all steps at the end in which it decays");
    v("weight_decay", weight_decay, at_least(0.0), "decoupled decay of matrices, embeddings and the head");
    v("betas", betas, between(0.0, 1.0), "decay rates of the two moments");
    v("eps", eps, above(0.0), "added to the root of the second moment");
    v("grad_clip", grad_clip, at_least(0.0), "largest norm of the gradient; 0: not clipped");
    v("groups", groups, any(), "other settings for some weights; the last matching group holds");
  }
};

struct ParallelConfig {
  AutoOr ep_size;  // "auto" or a number
  std::optional<std::string> expert_placement;
  int64_t overlap_chunks = 1;
  double recv_headroom = 1.5;
  std::optional<ByteCount> recv_memory;

  template <class Visitor>
  void fields(Visitor& v) {
    v("ep_size", ep_size, at_least(1), "ranks that together hold all experts; \"auto\": as many as divide the ranks");
    v("expert_placement", expert_placement, any(),
      "which rank holds which expert: a plan of `experts simulate`, or \"auto\": chosen anew at checkpoints; no bit "
      "depends on it");
    v("overlap_chunks", overlap_chunks, at_least(1), "parts in which exchange and expert computation overlap");
    v("recv_headroom", recv_headroom, at_least(1.0),
      "rows received that memory is planned for, relative to an even load");
    v("recv_memory", recv_memory, above(0.0),
      "bytes for rows at the experts of each rank, all layers together; a run that needs more ends; null: what it "
      "takes");
  }
};

struct EvalConfig {
  std::optional<Count> every;
  Count max_tokens{262144};
  bool baselines = true;
  int64_t samples = 1;

  template <class Visitor>
  void fields(Visitor& v) {
    v("every", every, at_least(1.0), "steps between evaluations; null: only at the end");
    v("max_tokens", max_tokens, at_least(1.0), "of each set in the evaluations during training, evenly from all of it");
    v("baselines", baselines, any(),
      "3-gram and 5-gram models of the training text on the same sets, once at the start");
    v("samples", samples, between(0, 100), "texts written by the model into samples/ at each evaluation");
  }
};

struct CheckpointConfig {
  std::optional<Count> every;
  int64_t keep_last = 2;

  template <class Visitor>
  void fields(Visitor& v) {
    v("every", every, at_least(1.0), "steps between checkpoints; null: only at the end");
    v("keep_last", keep_last, at_least(1), "whole checkpoints kept");
  }
};

struct LogConfig {
  Count every{10};
  bool tensorboard = false;
  bool prometheus = false;
  std::vector<int64_t> trace_steps, expert_trace_steps;

  template <class Visitor>
  void fields(Visitor& v) {
    v("every", every, at_least(1.0), "steps between lines on the console and in experts.jsonl");
    v("tensorboard", tensorboard, any(), "event files for TensorBoard in tb/ of the run directory");
    v("prometheus", prometheus, any(),
      "metrics.prom in the run directory, for the textfile collector of Prometheus' node_exporter");
    v("trace_steps", trace_steps, at_least(1),
      "steps of which trace/step-N.json shows the phases of every rank, for Perfetto or chrome://tracing");
    v("expert_trace_steps", expert_trace_steps, at_least(1),
      "steps of which expert_trace.bin keeps the experts of every token, for `experts simulate`");
  }
};

struct Config {
  std::string schema;  // "$schema", for editors
  int64_t version = 1;
  std::string name = "run";
  int64_t seed = 1234;
  ModelConfig model;
  TokenizerConfig tokenizer;
  DataConfig data;
  TrainingConfig train;
  OptimizerConfig optim;
  ParallelConfig parallel;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  LogConfig log;

  template <class Visitor>
  void fields(Visitor& v) {
    v("$schema", schema, any(), "for editors");
    v("version", version, between(1, 1), "format of this file");
    v("name", name, any(), "run directories are called after it");
    v("seed", seed, at_least(0), "every random number follows from it");
    v("model", model, any(), "the transformer");
    v("tokenizer", tokenizer, any(), "how text becomes tokens");
    v("data", data, any(), "what is read");
    v("train", train, any(), "batches and length of the run");
    v("optim", optim, any(), "AdamW and its schedule");
    v("parallel", parallel, any(), "ranks");
    v("eval", eval, any(), "evaluation during training");
    v("checkpoint", checkpoint, any(), "saving");
    v("log", log, any(), "reporting");
  }

  // Not keys: where the file was, its text, and where each value that was given stands (origins.h).
  std::string directory, text;
  std::map<std::string, std::string> origins;

  int64_t sequences_per_step() const { return batch_tokens() / train.seq_len; }
  int64_t sequences_per_granule() const { return sequences_per_step() / train.granules; }
  // Of a rank, at most. More rows amortise reading the weights, more than some 2,048 tokens only cost memory.
  int64_t sequences_per_pass() const {
    const int64_t granule = sequences_per_granule(), granules = 2048 / (granule * train.seq_len);
    return train.micro_batch.value_or(granules > 1 ? granules * granule : granule);
  }
  bool passes_hold_whole_granules() const { return sequences_per_pass() >= sequences_per_granule(); }
  int64_t batch_tokens() const { return train.batch_tokens.value; }
};

}  // namespace engine
