#include "engine/checkpoint/file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "engine/core/error.h"

namespace engine::checkpoint {
namespace {

[[noreturn]] void fail(const std::string& what, const std::string& path) {
  throw Error(ExitCode::environment, str("cannot ", what, " ", path, ": ", std::strerror(errno)));
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

void Descriptor::close_checked(const std::string& path) {
  if (::close(std::exchange(fd_, -1)) != 0) fail("close", path);
}

void NewFile::write(const void* data, int64_t bytes) {
  hash_.update(data, bytes);
  bytes_ += bytes;
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t count = ::write(file_.get(), from, static_cast<size_t>(bytes));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail("write", path_);
    from += count;
    bytes -= count;
  }
}

void NewFile::finish() {
  if (fdatasync(file_.get()) != 0) fail("make durable", path_);
  file_.close_checked(path_);
  sha256_hex_ = to_hex(hash_.finish());
}

Directory Directory::open(const std::string& path, bool create) {
  std::error_code error;
  if (create) std::filesystem::create_directories(path, error);
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail("open directory", path);
  return Directory(Descriptor(fd), path);
}

Directory Directory::make(const std::string& name) const {
  const std::string path = path_ + "/" + name;
  if (mkdirat(fd_.get(), name.c_str(), 0700) != 0) fail("make directory", path);
  const int fd = openat(fd_.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) fail("open directory", path);
  return Directory(Descriptor(fd), path);
}

NewFile Directory::create(const std::string& name) const {
  const std::string path = path_ + "/" + name;
  const int fd = openat(fd_.get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) fail("create", path);
  return NewFile(Descriptor(fd), path);
}

std::vector<std::string> Directory::names() const {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path_))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

void Directory::sync() const {
  if (fsync(fd_.get()) != 0) fail("make durable", path_);
}

void Directory::rename(const std::string& from, const std::string& to) const {
  if (renameat2(fd_.get(), from.c_str(), fd_.get(), to.c_str(), RENAME_NOREPLACE) != 0) {
    fail("rename " + from + " to", path_ + "/" + to);
  }
}

void Directory::replace(const std::string& from, const std::string& to) const {
  if (renameat(fd_.get(), from.c_str(), fd_.get(), to.c_str()) != 0) fail("rename to", path_ + "/" + to);
}

void Directory::remove_file(const std::string& name) const {
  if (unlinkat(fd_.get(), name.c_str(), 0) != 0 && errno != ENOENT) fail("remove", path_ + "/" + name);
}

void Directory::remove_directory(const std::string& name) const {
  const std::string path = path_ + "/" + name;
  const Descriptor inner(openat(fd_.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (inner.get() < 0) fail("open directory", path);
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    unlinkat(inner.get(), entry.path().filename().c_str(), 0);
  }
  if (unlinkat(fd_.get(), name.c_str(), AT_REMOVEDIR) != 0) fail("remove directory", path);
}

bool is_plain_name(std::string_view name) {
  if (name.empty() || name.size() > 128 || name.front() == '.') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  });
}

ExistingFile::ExistingFile(const std::string& directory, const std::string& name) : path_(directory + "/" + name) {
  if (!is_plain_name(name)) throw Error(ExitCode::checkpoint, str("\"", name, "\" is not a plain file name"));
  file_ = Descriptor(::open(path_.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  struct stat info {};
  if (file_.get() < 0 || fstat(file_.get(), &info) != 0) {
    throw Error(ExitCode::checkpoint, str("cannot read ", path_, ": ", std::strerror(errno)));
  }
  if (!S_ISREG(info.st_mode)) throw Error(ExitCode::checkpoint, str(path_, " is not a regular file"));
  bytes_ = info.st_size;
}

void ExistingFile::read(void* to, int64_t offset, int64_t bytes) const {
  char* at = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t count = pread(file_.get(), at, static_cast<size_t>(bytes), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      throw Error(ExitCode::checkpoint, str("cannot read ", bytes, " bytes at ", offset, " of ", path_, ": ",
                                            count == 0 ? "the file ends before" : std::strerror(errno)));
    }
    at += count, offset += count, bytes -= count;
  }
}

std::string ExistingFile::read_all(int64_t most_bytes) const {
  if (bytes_ > most_bytes) {
    throw Error(ExitCode::checkpoint, str(path_, " has ", bytes_, " bytes but may have ", most_bytes));
  }
  std::string text(static_cast<size_t>(bytes_), '\0');
  read(text.data(), 0, bytes_);
  return text;
}

std::string ExistingFile::sha256_hex() const {
  Sha256 hash;
  std::string block(size_t{1} << 20, '\0');
  for (int64_t at = 0; at < bytes_; at += static_cast<int64_t>(block.size())) {
    const int64_t count = std::min<int64_t>(static_cast<int64_t>(block.size()), bytes_ - at);
    read(block.data(), at, count);
    hash.update(block.data(), count);
  }
  return to_hex(hash.finish());
}

}  // namespace engine::checkpoint
