// The directory of one run: what it was given, what it measured, its checkpoints.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace engine::train {

class RunDirectory {
 public:
  // Creates `path` if needed and locks it; a run that is under way in it throws Error(directory_in_use). A process
  // whose ranks do not lead only uses what another one has made.
  explicit RunDirectory(const std::string& path, bool leads = true);
  // Removes the directories it made if nothing was written into them.
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;

  // runs/NAME-YYYYMMDD-HHMMSS below the working directory.
  static std::string default_path(const std::string& name);

  const std::string& path() const { return path_; }
  std::string checkpoints() const { return path_ + "/checkpoints"; }
  // Replaces a file as a whole (temporary file, rename).
  void write(const std::string& name, const std::string& text) const;
  // The same for what a run can do without. A log that cannot be written warns once and never stops training.
  void publish(const std::string& name, const std::string& text);
  // Adds a line, or bytes, to a log; likewise.
  void append(const std::string& name, const std::string& line) { append_bytes(name, line + "\n"); }
  void append_bytes(const std::string& name, const std::string& bytes);
  // Moves lines of a log whose "step" is beyond `step` to NAME.abandoned.jsonl: they belong to steps that are done
  // again. So does a last line that was not written to its end.
  void abandon_after(const std::string& log, int64_t step) const;
  // The "step" of the last line of a log; -1 if there is none.
  int64_t last_step(const std::string& log) const;
  bool stop_requested() const;  // a file called STOP

 private:
  void warn(const std::string& name, const std::string& why);
  std::string path_;
  int lock_ = -1;
  std::vector<std::string> made_;  // directories that were not there before, the outermost first
  std::atomic<bool> warned_ = false;
};

}  // namespace engine::train
