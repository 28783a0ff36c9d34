// The file operations of a save, relative to a directory that is held open, each checked.
//
// Every failure throws Error(environment) with the path and the system's reason.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/hash.h"

namespace engine::checkpoint {

// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  int get() const { return fd_; }
  // Closes and reports what close() says, since a disk may refuse as late as that.
  void close_checked(const std::string& path);

 private:
  int fd_;
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
  NewFile(Descriptor file, std::string path) : file_(std::move(file)), path_(std::move(path)) {}
  Descriptor file_;
  std::string path_, sha256_hex_;
  Sha256 hash_;
  int64_t bytes_ = 0;
};

class Directory {
 public:
  // Opens, creating it and its parents if `create`.
  static Directory open(const std::string& path, bool create = false);
  // Makes a new directory inside this one (0700); throws if the name is taken.
  Directory make(const std::string& name) const;
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
  const std::string& path() const { return path_; }

 private:
  Directory(Descriptor fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  Descriptor fd_;
  std::string path_;
};

// A regular file that exists, read by position. Throws Error(checkpoint).
class ExistingFile {
 public:
  // `name` is a plain file name inside `directory`: no separators, no leading dot, and links are not followed.
  ExistingFile(const std::string& directory, const std::string& name);
  int64_t bytes() const { return bytes_; }
  void read(void* to, int64_t offset, int64_t bytes) const;
  std::string read_all(int64_t most_bytes) const;
  std::string sha256_hex() const;

 private:
  std::string path_;
  Descriptor file_;
  int64_t bytes_ = 0;
};

// Whether a name from a manifest or an index may be opened.
bool is_plain_name(std::string_view name);

}  // namespace engine::checkpoint
