#include "engine/train/run_log.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <optional>

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

}  // namespace

RunLog::RunLog(Trainer& trainer, RunDirectory* directory, Console& console, RunStatus* status, double bytes_per_token)
    : trainer_(trainer),
      directory_(directory),
      console_(console),
      status_(directory != nullptr ? status : nullptr),
      bytes_per_token_(bytes_per_token),
      window_(trainer) {}

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

void RunLog::step(const StepResult& result, bool report, double seconds_left) {
  const double tokens = static_cast<double>(trainer_.config().batch_tokens()), speed = tokens / result.seconds;
  trained_tokens_ += tokens;
  trained_seconds_ += result.seconds;
  window_.add();
  const double bits = bits_per_byte(result.loss), left = time_left(result.step, seconds_left);
  if (directory_) write_metrics(result, speed);
  if (status_) status_->step(result.step, result.loss, mean_speed(), left);
  console_.progress({.step = result.step,
                     .last_step = last_step_,
                     .bits_per_byte = bits,
                     .tokens_per_second = mean_speed(),
                     .seconds_left = left});
  if (!report) return;
  const LoadWindow::Summary load = window_.finish(result.step);
  const StepReport line{.result = result,
                        .bits_per_byte = bits,
                        .tokens_per_second = speed,
                        .seconds_left = left,
                        .has_experts = !load.json.empty(),
                        .may_drop = trainer_.config().model.router.capacity_factor.has_value(),
                        .worst_load = load.worst_load,
                        .worst_layer = load.worst_layer,
                        .dropped_share = load.dropped_share};
  console_.step(line);
  if (directory_ == nullptr) return;
  if (!load.json.empty()) directory_->append("experts.jsonl", load.json);
  const StepPhases& p = result.phases;
  Scalars scalars = {{"loss", result.loss},
                     {"bits_per_byte", bits},
                     {"aux_loss", result.aux_loss},
                     {"z_loss", result.z_loss},
                     {"grad_norm", result.grad_norm},
                     {"lr", result.lr},
                     {"speed/tokens_per_second", speed},
                     {"seconds/data", p.data},
                     {"seconds/forward", p.forward},
                     {"seconds/backward", p.backward},
                     {"seconds/comm", p.comm},
                     {"seconds/optimizer", p.optimizer}};
  if (line.has_experts) scalars.push_back({"experts/worst_max_over_mean", load.worst_load});
  if (line.may_drop) scalars.push_back({"experts/dropped_share", load.dropped_share});
  add_tensorboard(result.step, scalars);
  if (trainer_.config().log.prometheus) write_prometheus(line);
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
  const Json line = {{"step", r.step},
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
