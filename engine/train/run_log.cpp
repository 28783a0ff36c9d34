#include "engine/train/run_log.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "engine/train/load_report.h"

namespace engine::train {

using Json = nlohmann::ordered_json;

namespace {

Json number_or_null(const std::optional<double>& x) {
  return x ? Json(*x) : Json();
}

double wall_time() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

Scalars scalars_of(const StepReport& line) {
  const StepPhases& p = line.result.phases;
  Scalars scalars = {{"loss", line.result.loss},
                     {"bits_per_byte", line.bits_per_byte},
                     {"aux_loss", line.result.aux_loss},
                     {"z_loss", line.result.z_loss},
                     {"grad_norm", line.result.grad_norm},
                     {"lr", line.result.lr},
                     {"speed/tokens_per_second", line.tokens_per_second},
                     {"seconds/data", p.data},
                     {"seconds/forward", p.forward},
                     {"seconds/backward", p.backward},
                     {"seconds/comm", p.comm},
                     {"seconds/optimizer", p.optimizer}};
  if (line.has_experts) scalars.push_back({"experts/worst_max_over_mean", line.worst_load});
  if (line.may_drop) scalars.push_back({"experts/dropped_share", line.dropped_share});
  return scalars;
}

}  // namespace

RunLog::RunLog(Trainer& trainer, const data::Corpus& corpus, const data::Sampler& sampler, RunDirectory* directory,
               Console& console, RunStatus* status)
    : trainer_(trainer),
      directory_(directory),
      console_(console),
      status_(directory != nullptr ? status : nullptr),
      bytes_per_token_(corpus.bytes_per_token()),
      recorder_(trainer, source_names(corpus), [&sampler](int64_t sample) { return sampler.source_of(sample); }),
      trace_(
          trainer, source_names(corpus), [&sampler](int64_t sample) { return sampler.source_of(sample); },
          trainer.config().log.expert_trace_steps, directory ? directory->path() + "/expert_trace.bin" : ""),
      phases_(trainer, trainer.config().log.trace_steps, directory ? directory->path() : "") {
  recorder_.trace_with(&trace_);
}

void RunLog::begin(int64_t last_step) {
  last_step_ = last_step == INT64_MAX ? 0 : last_step;
  if (status_) status_->begin(trainer_.step(), last_step_);
  if (directory_ == nullptr || !trainer_.config().log.tensorboard) return;
  const double now = wall_time();
  tensorboard_file_ = "tb/" + tensorboard_file_name(now);
  directory_->append_bytes(tensorboard_file_, tensorboard_header(now) + tensorboard_restart(now, trainer_.step() + 1));
}

double RunLog::bits_per_byte(double loss) const {
  return loss / std::log(2.0) / bytes_per_token_;
}

double RunLog::time_left(int64_t step, double seconds_left) const {
  const double tokens = static_cast<double>(last_step_ - step) * static_cast<double>(trainer_.config().batch_tokens());
  const double left = last_step_ > 0 ? std::min(seconds_left, tokens / mean_speed()) : seconds_left;
  return std::isfinite(left) ? std::max(0.0, left) : -1;
}

void RunLog::begin_step(int64_t first_sample) {
  recorder_.begin_step(first_sample);
  trace_.begin_step(first_sample);
  phases_.begin_step();
}

void RunLog::step(const StepResult& result, bool report, double seconds_left) {
  const double tokens = static_cast<double>(trainer_.config().batch_tokens()), speed = tokens / result.seconds;
  trained_tokens_ += tokens;
  trained_seconds_ += result.seconds;
  recorder_.end_step(result);
  const bool traced = phases_.end_step(result), experts_traced = trace_.end_step(result);
  if (!(traced && experts_traced) && !std::exchange(warned_, true)) {
    console_.warning("cannot write the trace of a step; training goes on without it");
  }
  const double bits = bits_per_byte(result.loss), left = time_left(result.step, seconds_left);
  if (directory_) write_metrics(result, speed);
  if (status_) status_->step(result.step, result.loss, mean_speed(), left);
  console_.progress({.step = result.step,
                     .last_step = last_step_,
                     .bits_per_byte = bits,
                     .tokens_per_second = mean_speed(),
                     .seconds_left = left});
  if (!report) return;
  const LoadSummary load = report_load();
  const StepReport line{.result = result,
                        .bits_per_byte = bits,
                        .tokens_per_second = speed,
                        .seconds_left = left,
                        .has_experts = !trainer_.model().moe_layers().empty(),
                        .may_drop = trainer_.config().model.router.capacity_factor.has_value(),
                        .worst_load = load.worst_load,
                        .worst_layer = load.worst_layer,
                        .dropped_share = load.dropped_share};
  console_.step(line);
  if (directory_ == nullptr) return;
  add_tensorboard(result.step, scalars_of(line));
  if (trainer_.config().log.prometheus) write_prometheus(line);
}

LoadSummary RunLog::report_load() {
  const LoadWindow window = recorder_.finish();
  load_LE_.resize(window.layers.size());
  for (size_t l = 0; l < window.layers.size(); ++l) {
    const std::vector<int64_t>& counts = window.layers[l].tokens_per_expert;
    load_LE_[l].resize(counts.size());
    for (size_t e = 0; e < counts.size(); ++e) load_LE_[l][e] += counts[e];
  }
  if (trainer_.config().model.router.force == "none") {
    for (const std::string& message : watch_.look(window)) console_.warning(message);
  }
  if (directory_ && !window.layers.empty()) append_load(*directory_, to_json(window));
  return summarize(window);
}

void RunLog::evaluation(const EvaluationReport& report) {
  evaluation_ = report;
  Scalars scalars;
  for (const EvalResult& result : report.results) {
    scalars.push_back({"eval_bits_per_byte/" + result.set, result.bits_per_byte()});
    scalars.push_back({"eval_loss/" + result.set, result.loss});
  }
  add_tensorboard(report.step, scalars);
}

void RunLog::add_tensorboard(int64_t step, const Scalars& scalars) {
  if (tensorboard_file_.empty() || scalars.empty()) return;
  directory_->append_bytes(tensorboard_file_, tensorboard_scalars(wall_time(), step, scalars));
}

void RunLog::write_metrics(const StepResult& r, double speed) {
  const StepPhases& p = r.phases;
  Json line = {{"step", r.step},
               {"tokens", r.step * trainer_.config().batch_tokens()},
               {"loss", r.loss},
               {"aux_loss", r.aux_loss},
               {"z_loss", r.z_loss},
               {"grad_norm", r.grad_norm},
               {"loss_z", number_or_null(r.loss_z)},
               {"grad_norm_z", number_or_null(r.grad_norm_z)},
               {"lr", r.lr},
               {"tokens_per_second", speed},
               {"step_seconds", r.seconds},
               {"phases",
                {{"data", p.data},
                 {"forward", p.forward},
                 {"backward", p.backward},
                 {"comm", p.comm},
                 {"optimizer", p.optimizer}}},
               {"recomputed", r.recomputed}};
  if (r.spike != SpikeAction::none) line["spike"] = r.spike == SpikeAction::skip ? "skipped" : "logged";
  directory_->append("metrics.jsonl", line.dump());
}

void RunLog::write_prometheus(const StepReport& s) {
  const StepResult& r = s.result;
  const PrometheusText::Labels run = {{"run", trainer_.config().name}};
  PrometheusText text(run);
  const auto gauge = [&](const char* name, const char* help, double value, const PrometheusText::Labels& labels = {}) {
    text.gauge(std::string("switchyard_") + name, help, value, labels);
  };
  gauge("step", "Optimizer steps taken.", static_cast<double>(r.step));
  if (last_step_ > 0) gauge("last_step", "Steps after which the run ends.", static_cast<double>(last_step_));
  gauge("tokens", "Tokens trained on.", static_cast<double>(r.step * trainer_.config().batch_tokens()));
  gauge("loss", "Cross-entropy of the last step, nats per token.", r.loss);
  gauge("bits_per_byte", "The same in bits per byte of text.", s.bits_per_byte);
  gauge("gradient_norm", "Norm of the gradient before clipping.", r.grad_norm);
  gauge("learning_rate", "Learning rate of the last step.", r.lr);
  gauge("tokens_per_second", "Speed of the last step.", s.tokens_per_second);
  if (s.seconds_left >= 0) gauge("eta_seconds", "Seconds until the run ends.", s.seconds_left);
  const StepPhases& p = r.phases;
  for (const auto& [phase, seconds] : {std::pair{"data", p.data},
                                       {"forward", p.forward},
                                       {"backward", p.backward},
                                       {"comm", p.comm},
                                       {"optimizer", p.optimizer}}) {
    gauge("phase_seconds", "Seconds of the last step by phase.", seconds, {{"phase", phase}});
  }
  if (s.has_experts) {
    gauge("expert_load_max_over_mean", "Tokens of the fullest expert of the worst layer over the mean.", s.worst_load);
    gauge("aux_loss", "Balance loss before its coefficient, mean over layers.", r.aux_loss);
  }
  if (s.may_drop) gauge("dropped_share", "Share of assignments dropped for want of capacity.", s.dropped_share);
  for (const EvalResult& result : evaluation_.results)
    gauge("eval_bits_per_byte", "Bits per byte of the last evaluation.", result.bits_per_byte(), {{"set", result.set}});
  gauge("time_seconds", "When this was written, in seconds since 1970.", std::floor(wall_time()));
  directory_->publish("metrics.prom", text.text());
}

}  // namespace engine::train
