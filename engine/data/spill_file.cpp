#include "engine/data/spill_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "engine/core/error.h"

namespace engine::data {
namespace {

[[noreturn]] void refuse(const std::string& directory) {
  throw Error(ExitCode::environment, str("text that does not fit into memory cannot be kept in ", directory, ": ",
                                         std::strerror(errno), "; set TMPDIR to a directory with room"));
}

}  // namespace

int open_nameless_file(std::string& directory) {
  const char* variable = std::getenv("TMPDIR");
  directory = variable == nullptr || *variable == '\0' ? "/tmp" : variable;
  std::string name = directory + "/switchyard-XXXXXX";
  const int file = mkostemp(name.data(), O_CLOEXEC);
  if (file >= 0) unlink(name.c_str());
  return file;
}

SpillFile::SpillFile() : file_(open_nameless_file(directory_)) {
  if (file_ < 0) refuse(directory_);
}

SpillFile::SpillFile(const std::string& path) : directory_(path), file_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}

SpillFile::~SpillFile() {
  if (file_ >= 0) close(file_);
}

int64_t SpillFile::append(std::string_view bytes) {
  const int64_t begin = size_;
  while (!bytes.empty()) {
    const ssize_t count = pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(size_));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) refuse(directory_);
    bytes.remove_prefix(static_cast<size_t>(count));
    size_ += count;
  }
  return begin;
}

void SpillFile::read(int64_t begin, int64_t count, void* to) const {
  for (int64_t done = 0; done < count;) {
    const ssize_t got = pread(file_, static_cast<char*>(to) + done, static_cast<size_t>(count - done),
                              static_cast<off_t>(begin + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw Error(ExitCode::environment, str("text kept in ", directory_, " cannot be read back"));
    done += got;
  }
}

std::string SpillFile::read(int64_t begin, int64_t count) const {
  std::string text(static_cast<size_t>(count), '\0');
  read(begin, count, text.data());
  return text;
}

}  // namespace engine::data
