// What the process that leads a run says and keeps beside the training: the console, status.json, and their heartbeat.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/train/console.h"
#include "engine/train/heartbeat.h"
#include "engine/train/run.h"
#include "engine/train/run_directory.h"
#include "engine/train/run_status.h"

namespace tools {

class Narration {
 public:
  Narration(engine::train::RunDirectory& directory, const engine::train::ConsoleOptions& options);

  // Which config it is, with the values given by --set, and with -v where each key comes from.
  void say_config(const std::string& file, const engine::Config& config, const std::vector<std::string>& sets);
  engine::train::Console& console() { return console_; }
  // What run_training needs to say and keep more.
  void join(engine::train::RunOptions& options);
  // Runs the training, and writes how it ended.
  engine::train::RunSummary watch(const std::function<engine::train::RunSummary()>& train);

 private:
  engine::train::Console console_;
  engine::train::RunStatus status_;
  engine::train::Heartbeat heartbeat_;
};

}  // namespace tools
