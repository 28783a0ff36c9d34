// Files and directories of checkpoints, each operation checked, on a Storage: the system's unless another is given.
//
// Every failure of a save throws Error(environment), of a load Error(checkpoint), with the path and the system's
// reason.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/checkpoint/storage.h"
#include "engine/core/buffer.h"
#include "engine/core/hash.h"

namespace engine::checkpoint {

// A handle that closes itself.
class Handle {
 public:
  Handle(Storage& storage, int number) : storage_(&storage), number_(number) {}
  Handle(Handle&& other) noexcept : storage_(other.storage_), number_(other.number_) { other.number_ = -1; }
  Handle& operator=(Handle&& other) noexcept;
  ~Handle();
  int number() const { return number_; }
  Storage& storage() const { return *storage_; }
  // Closes and reports what close() says, since a disk may refuse as late as that.
  void close_checked(const std::string& path);

 private:
  Storage* storage_;
  int number_;
};

// A new file that is written once, from front to back, and hashed on the way.
class NewFile {
 public:
  void write(const void* data, int64_t bytes);
  void write(std::string_view text) { write(text.data(), static_cast<int64_t>(text.size())); }
  // Makes the content durable (fdatasync) and closes.
  void finish();
  int64_t bytes() const { return bytes_; }
  std::string sha256_hex() const { return sha256_hex_; }  // after finish()

 private:
  friend class Directory;
  static constexpr int64_t kPiece = int64_t{1} << 20;  // whole blocks of any disk
  NewFile(Handle file, std::string path) : file_(std::move(file)), path_(std::move(path)) {}
  void write_out();
  Handle file_;
  std::string path_, sha256_hex_;
  Buffer pending_{kPiece};  // what is written next, all at once
  int64_t pending_bytes_ = 0;
  Sha256 hash_;
  int64_t bytes_ = 0;
};

// A regular file that exists, read by position.
class ExistingFile {
 public:
  // `name` is a plain file name inside `directory`: no separators, no leading dot, and links are not followed.
  ExistingFile(const std::string& directory, const std::string& name, Storage& storage = system_storage());
  int64_t bytes() const { return bytes_; }
  void read(void* to, int64_t offset, int64_t bytes) const;
  std::string read_all(int64_t most_bytes) const;
  std::string sha256_hex() const;  // throws Error(stopped) on a wish to stop, see stop_request.h

 private:
  std::string path_;
  Handle file_;
  int64_t bytes_ = 0;
};

class Directory {
 public:
  static Directory open(const std::string& path, Storage& storage = system_storage());
  // Makes it and its parents durably where they are not there yet.
  static Directory open_or_make(const std::string& path, Storage& storage = system_storage());
  // Makes a new directory inside this one (0700); throws if the name is taken.
  Directory make(const std::string& name) const;
  // One inside this one; never follows a link.
  Directory open_inner(const std::string& name) const;
  // A new file inside this one; throws if the name is taken. Never follows a link.
  NewFile create(const std::string& name) const;
  std::vector<std::string> names() const;
  // Makes the names in this directory durable.
  void sync() const;
  // Gives `from` the name `to`, which must not be taken.
  void rename(const std::string& from, const std::string& to) const;
  // Gives `from` the name `to`, in place of what had it.
  void replace(const std::string& from, const std::string& to) const;
  // Removes a plain file, if it is there.
  void remove_file(const std::string& name) const;
  // Removes a directory in here and the plain files in it; does not follow links.
  void remove_directory(const std::string& name) const;
  int64_t free_bytes() const;
  const std::string& path() const { return path_; }

 private:
  Directory(Handle handle, std::string path) : handle_(std::move(handle)), path_(std::move(path)) {}
  Storage& storage() const { return handle_.storage(); }
  std::string path_of(const std::string& name) const { return path_ + "/" + name; }
  Handle handle_;
  std::string path_;
};

// The names in a directory; none if it is not there.
std::vector<std::string> names_in(const std::string& directory, Storage& storage = system_storage());

// Whether a name from a manifest or an index may be opened.
bool is_plain_name(std::string_view name);

}  // namespace engine::checkpoint
