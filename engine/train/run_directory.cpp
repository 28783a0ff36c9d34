#include "engine/train/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "engine/core/error.h"

namespace engine::train {

namespace fs = std::filesystem;

namespace {

// The "step" of a line of a log, 0 if it has none.
int64_t step_of(const std::string& line) {
  const size_t at = line.find("\"step\":");
  return at == std::string::npos ? 0 : std::atoll(line.c_str() + at + 7);
}

// "2026-01-31 12:00:00", local time
std::string time_text(const char* format) {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[32];
  std::strftime(text, sizeof(text), format, &local);
  return text;
}

}  // namespace

RunDirectory::RunDirectory(const std::string& path, bool leads) : path_(path) {
  if (!leads) return;
  std::error_code error;
  const fs::path place = fs::absolute(path).lexically_normal();
  for (fs::path at = place.has_filename() ? place : place.parent_path(); !fs::exists(at, error); at = at.parent_path())
    made_.insert(made_.begin(), at.string());
  if (!fs::create_directories(path, error) && error) {
    throw Error(ExitCode::environment, str("cannot make the run directory ", path, ": ", error.message(),
                                           "; give another one with --run-dir"));
  }
  const std::string lock = path + "/LOCK";
  lock_ = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_ < 0) {
    throw Error(ExitCode::environment, str("cannot write to the run directory ", path, ": ", std::strerror(errno),
                                           "; give another one with --run-dir"));
  }
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    char owner[128] = {};
    const ssize_t count = pread(lock_, owner, sizeof(owner) - 1, 0);
    close(lock_);
    throw Error(ExitCode::directory_in_use, str(path, " is in use by ", count > 0 ? owner : "another run",
                                                "; wait for it or give another --run-dir"));
  }
  char host[64] = {};
  gethostname(host, sizeof(host) - 1);
  const std::string owner = str("process ", getpid(), " on ", host, " since ", time_text("%Y-%m-%d %H:%M:%S"));
  if (ftruncate(lock_, 0) == 0 && pwrite(lock_, owner.data(), owner.size(), 0) < 0) {
    // the lock holds all the same; only its owner's name is missing
  }
}

RunDirectory::~RunDirectory() {
  if (lock_ < 0) return;
  std::error_code error;
  fs::directory_iterator files(path_, error);
  const bool unused = !made_.empty() && !error && std::distance(fs::begin(files), fs::end(files)) == 1;
  if (unused) {
    unlink((path_ + "/LOCK").c_str());  // still held, so nobody else is in it
    while (!made_.empty() && rmdir(made_.back().c_str()) == 0) made_.pop_back();
  }
  close(lock_);
}

std::string RunDirectory::default_path(const std::string& name) {
  return "runs/" + name + "-" + time_text("%Y%m%d-%H%M%S");
}

void RunDirectory::write(const std::string& name, const std::string& text) const {
  const std::string target = path_ + "/" + name, temporary = target + ".tmp";
  std::error_code error;
  fs::create_directories(fs::path(target).parent_path(), error);
  {
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    file << text;
    if (!file.flush()) {
      const int why = errno;
      unlink(temporary.c_str());
      throw Error(ExitCode::environment, str("cannot write ", temporary, ": ", std::strerror(why)));
    }
  }
  fs::rename(temporary, target, error);
  if (error) throw Error(ExitCode::environment, str("cannot write ", target, ": ", error.message()));
}

void RunDirectory::publish(const std::string& name, const std::string& text) {
  try {
    write(name, text);
  } catch (const Error& error) {
    warn(name, error.what());
  }
}

void RunDirectory::append_bytes(const std::string& name, const std::string& bytes) {
  const fs::path path = fs::path(path_) / name;
  std::error_code error;
  if (name.find('/') != std::string::npos) fs::create_directories(path.parent_path(), error);
  std::ofstream file(path, std::ios::binary | std::ios::app);
  file << bytes;
  if (!file.flush()) warn(name, std::strerror(errno));
}

void RunDirectory::warn(const std::string& name, const std::string& why) {
  if (warned_.exchange(true)) return;
  std::fprintf(stderr, "warning: cannot write %s/%s (%s); training goes on without it\n", path_.c_str(), name.c_str(),
               why.c_str());
}

void RunDirectory::abandon_after(const std::string& log, int64_t step) const {
  const std::string path = path_ + "/" + log;
  std::ifstream file(path, std::ios::binary);
  if (!file) return;
  std::string line, kept, abandoned;
  while (std::getline(file, line)) (file.eof() || step_of(line) > step ? abandoned : kept) += line + "\n";
  if (abandoned.empty()) return;
  std::ofstream(path_ + "/" + log.substr(0, log.find('.')) + ".abandoned.jsonl", std::ios::binary | std::ios::app)
      << abandoned;
  write(log, kept);
}

int64_t RunDirectory::last_step(const std::string& log) const {
  std::ifstream file(path_ + "/" + log, std::ios::binary);
  std::string line;
  int64_t step = -1;
  while (std::getline(file, line)) step = step_of(line);
  return step;
}

bool RunDirectory::stop_requested() const {
  return access((path_ + "/STOP").c_str(), F_OK) == 0;
}

}  // namespace engine::train
