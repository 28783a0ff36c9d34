#include "engine/checkpoint/file_system.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "engine/core/error.h"
#include "engine/core/stop_request.h"

namespace engine::checkpoint {
namespace {

constexpr int64_t kReadPiece = int64_t{1} << 20;

[[noreturn]] void fail(const std::string& what, const std::string& path, int64_t result) {
  throw Error(ExitCode::environment, str("cannot ", what, " ", path, ": ", std::strerror(static_cast<int>(-result))));
}

void check(int64_t result, const std::string& what, const std::string& path) {
  if (result < 0) fail(what, path, result);
}

}  // namespace

Handle& Handle::operator=(Handle&& other) noexcept {
  std::swap(storage_, other.storage_);
  std::swap(number_, other.number_);
  return *this;
}

Handle::~Handle() {
  if (number_ >= 0) storage_->close(number_);
}

void Handle::close_checked(const std::string& path) {
  check(storage_->close(std::exchange(number_, -1)), "close", path);
}

void NewFile::write(const void* data, int64_t bytes) {
  const char* from = static_cast<const char*>(data);
  bytes_ += bytes;
  while (bytes > 0) {
    const int64_t count = std::min(bytes, pending_.bytes() - pending_bytes_);
    std::memcpy(pending_.data() + pending_bytes_, from, static_cast<size_t>(count));
    pending_bytes_ += count;
    from += count;
    bytes -= count;
    if (pending_bytes_ == pending_.bytes()) write_out();
  }
}

void NewFile::write_out() {
  hash_.update(pending_.data(), pending_bytes_);  // while it is in the cache
  for (int64_t done = 0; done < pending_bytes_;) {
    const int64_t count = file_.storage().write(file_.number(), pending_.data() + done, pending_bytes_ - done);
    if (count == -EINTR) continue;
    if (count <= 0) fail("write", path_, count == 0 ? -ENOSPC : count);
    done += count;
  }
  pending_bytes_ = 0;
}

void NewFile::finish() {
  write_out();
  check(file_.storage().sync_file(file_.number()), "make durable", path_);
  file_.close_checked(path_);
  sha256_hex_ = to_hex(hash_.finish());
}

Directory Directory::open(const std::string& path, Storage& storage) {
  const int handle = storage.open_directory(path);
  check(handle, "open directory", path);
  return Directory(Handle(storage, handle), path);
}

Directory Directory::open_or_make(const std::string& path, Storage& storage) {
  const int handle = storage.open_directory(path);
  if (handle != -ENOENT || path == "." || path == "/") {
    check(handle, "open directory", path);
    return Directory(Handle(storage, handle), path);
  }
  std::filesystem::path place = std::filesystem::path(path).lexically_normal();
  if (!place.has_filename()) place = place.parent_path();
  const std::filesystem::path parent = place.parent_path();
  const Directory outer = open_or_make(parent.empty() ? "." : parent.string(), storage);
  const int made = storage.make_directory(outer.handle_.number(), place.filename().string());
  if (made != -EEXIST) check(made, "make directory", path);
  outer.sync();
  return open(path, storage);
}

Directory Directory::make(const std::string& name) const {
  check(storage().make_directory(handle_.number(), name), "make directory", path_of(name));
  return open_inner(name);
}

Directory Directory::open_inner(const std::string& name) const {
  const int inner = storage().open_directory(handle_.number(), name);
  check(inner, "open directory", path_of(name));
  return Directory(Handle(storage(), inner), path_of(name));
}

NewFile Directory::create(const std::string& name) const {
  const int file = storage().create_file(handle_.number(), name);
  check(file, "create", path_of(name));
  return NewFile(Handle(storage(), file), path_of(name));
}

std::vector<std::string> Directory::names() const {
  std::vector<std::string> names;
  check(storage().list(handle_.number(), names), "list", path_);
  return names;
}

void Directory::sync() const {
  check(storage().sync_directory(handle_.number()), "make durable", path_);
}

void Directory::rename(const std::string& from, const std::string& to) const {
  check(storage().rename(handle_.number(), from, to), "rename " + from + " to", path_of(to));
}

void Directory::replace(const std::string& from, const std::string& to) const {
  check(storage().replace(handle_.number(), from, to), "rename to", path_of(to));
}

void Directory::remove_file(const std::string& name) const {
  const int result = storage().remove_file(handle_.number(), name);
  if (result != -ENOENT) check(result, "remove", path_of(name));
}

void Directory::remove_directory(const std::string& name) const {
  const Directory inner = open_inner(name);
  for (const std::string& file : inner.names()) inner.remove_file(file);
  check(storage().remove_directory(handle_.number(), name), "remove directory", path_of(name));
}

int64_t Directory::free_bytes() const {
  const int64_t bytes = storage().free_bytes(handle_.number());
  check(bytes, "ask for the free space of", path_);
  return bytes;
}

std::vector<std::string> names_in(const std::string& directory, Storage& storage) {
  {
    const Handle there(storage, storage.open_directory(directory));
    if (there.number() == -ENOENT) return {};
  }
  return Directory::open(directory, storage).names();
}

bool is_plain_name(std::string_view name) {
  if (name.empty() || name.size() > 128 || name.front() == '.') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  });
}

ExistingFile::ExistingFile(const std::string& directory, const std::string& name, Storage& storage)
    : path_(directory + "/" + name), file_(storage, -1) {
  if (!is_plain_name(name)) throw Error(ExitCode::checkpoint, str("\"", name, "\" is not a plain file name"));
  const Handle inside(storage, storage.open_directory(directory));
  if (inside.number() >= 0) file_ = Handle(storage, storage.open_file(inside.number(), name));
  const int handle = inside.number() < 0 ? inside.number() : file_.number();
  if (handle == -EINVAL) throw Error(ExitCode::checkpoint, str(path_, " is not a regular file"));
  bytes_ = handle < 0 ? handle : storage.file_bytes(handle);
  if (bytes_ < 0) {
    throw Error(ExitCode::checkpoint, str("cannot read ", path_, ": ", std::strerror(static_cast<int>(-bytes_))));
  }
}

void ExistingFile::read(void* to, int64_t offset, int64_t bytes) const {
  char* at = static_cast<char*>(to);
  while (bytes > 0) {
    const int64_t count = file_.storage().read(file_.number(), at, bytes, offset);
    if (count == -EINTR) continue;
    if (count <= 0) {
      throw Error(ExitCode::checkpoint,
                  str("cannot read ", bytes, " bytes at ", offset, " of ", path_, ": ",
                      count == 0 ? "the file ends before" : std::strerror(static_cast<int>(-count))));
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
  std::string block(static_cast<size_t>(std::min(kReadPiece, bytes_)), '\0');
  for (int64_t at = 0; at < bytes_; at += kReadPiece) {
    throw_if_stop_requested();
    const int64_t count = std::min(kReadPiece, bytes_ - at);
    read(block.data(), at, count);
    hash.update(block.data(), count);
  }
  return to_hex(hash.finish());
}

}  // namespace engine::checkpoint
