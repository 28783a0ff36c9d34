#include "engine/train/run_log.h"

#include <nlohmann/json.hpp>
#include <optional>

namespace engine::train {

using Json = nlohmann::ordered_json;

namespace {

Json number_or_null(const std::optional<double>& x) {
  return x ? Json(*x) : Json();
}

}  // namespace

void RunLog::step(const StepResult& result, bool report) {
  const double tokens = static_cast<double>(trainer_.config().batch_tokens()), speed = tokens / result.seconds;
  trained_tokens_ += tokens;
  trained_seconds_ += result.seconds;
  window_.add();
  if (directory_) write_metrics(result, speed);
  if (!report) return;
  const LoadWindow::Summary load = window_.finish(result.step);
  console_.step({.result = result,
                 .tokens_per_second = speed,
                 .worst_load = load.worst_load,
                 .worst_layer = load.worst_layer,
                 .dropped_share = load.dropped_share});
  if (directory_ && !load.json.empty()) directory_->append("experts.jsonl", load.json);
}

void RunLog::progress(const StepResult& result, int64_t last_step) {
  if (last_step == INT64_MAX) return;
  const double tokens_left =
      static_cast<double>(last_step - result.step) * static_cast<double>(trainer_.config().batch_tokens());
  console_.progress(result.step, last_step, result.loss, mean_speed(), tokens_left / mean_speed());
}

void RunLog::write_metrics(const StepResult& r, double speed) {
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
                     {"recomputed", r.recomputed}};
  directory_->append("metrics.jsonl", line.dump());
}

}  // namespace engine::train
