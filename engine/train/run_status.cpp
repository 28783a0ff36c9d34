#include "engine/train/run_status.h"

#include <unistd.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "engine/core/profiler.h"

namespace engine::train {

using Json = nlohmann::ordered_json;

namespace {

constexpr double kSecondsBetweenWrites = 5;

std::string host_name() {
  char host[64] = {};
  gethostname(host, sizeof(host) - 1);
  return host;
}

}  // namespace

std::string utc_time() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

void RunStatus::begin(int64_t step, int64_t last_step) {
  const std::lock_guard lock(mutex_);
  status_ = "running", activity_ = "starting", started_ = utc_time();
  step_ = step, last_step_ = last_step;
  write(true);
}

void RunStatus::activity(const std::string& text) {
  const std::lock_guard lock(mutex_);
  activity_ = text;
  write(false);
}

void RunStatus::step(int64_t step, double loss, double tokens_per_second, double seconds_left) {
  const std::lock_guard lock(mutex_);
  step_ = step, loss_ = loss, tokens_per_second_ = tokens_per_second, seconds_left_ = seconds_left;
  write(false);
}

void RunStatus::end(const std::string& status) {
  const std::lock_guard lock(mutex_);
  if (status_ != "running") return;
  status_ = status, activity_.clear(), seconds_left_ = -1;
  exit_code_ = status == "stopped" ? static_cast<int>(ExitCode::stopped) : 0;
  write(true);
}

void RunStatus::fail(ExitCode code, const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (status_ != "running") return;
  status_ = "failed", seconds_left_ = -1;
  exit_code_ = static_cast<int>(code), reason_ = reason;
  write(true);
}

void RunStatus::beat() {
  const std::lock_guard lock(mutex_);
  if (status_ == "running") write(false);
}

void RunStatus::write(bool now) {
  if (status_.empty()) return;
  const double time = monotonic_seconds();
  if (!now && time - written_ < kSecondsBetweenWrites) return;
  written_ = time;
  const bool ended = status_ != "running";
  const Json status = {{"status", status_},
                       {"activity", activity_.empty() ? Json() : Json(activity_)},
                       {"step", step_},
                       {"last_step", last_step_ > 0 ? Json(last_step_) : Json()},
                       {"loss", step_ > 0 && loss_ > 0 ? Json(loss_) : Json()},
                       {"tokens_per_second", tokens_per_second_ > 0 ? Json(tokens_per_second_) : Json()},
                       {"eta_seconds", seconds_left_ >= 0 ? Json(seconds_left_) : Json()},
                       {"reason", reason_.empty() ? Json() : Json(reason_)},
                       {"exit_code", ended ? Json(exit_code_) : Json()},
                       {"started", started_},
                       {"heartbeat", utc_time()},
                       {"host", host_name()},
                       {"process", getpid()}};
  directory_.publish("status.json", status.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace engine::train
