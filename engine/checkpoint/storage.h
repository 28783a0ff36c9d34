// What checkpoints ask of a file system, in the shape of its system calls, so that tests can put another in its place.
//
// Whatever can fail returns the negated errno instead of what is said. A handle is a number that is given back with
// close(). A name is that of an entry of the directory, and links are never followed. Calls may come from several
// threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace engine::checkpoint {

class Storage {
 public:
  virtual ~Storage() = default;

  // A directory's handle.
  virtual int open_directory(const std::string& path) = 0;
  virtual int open_directory(int directory, const std::string& name) = 0;
  // A new one, for its owner only; -EEXIST if the name is taken.
  virtual int make_directory(int directory, const std::string& name) = 0;
  // The handle of a new file, for its owner only; -EEXIST if the name is taken.
  virtual int create_file(int directory, const std::string& name) = 0;
  // The handle of a regular file, for reading.
  virtual int open_file(int directory, const std::string& name) = 0;

  virtual int64_t file_bytes(int file) = 0;
  // How many bytes were read at `offset`: fewer at the end of the file.
  virtual int64_t read(int file, void* to, int64_t bytes, int64_t offset) = 0;
  // How many bytes were added: a disk that is full takes fewer.
  virtual int64_t write(int file, const void* data, int64_t bytes) = 0;
  // Makes a file's content durable, or a directory's entries. A failed one is not tried again: what it lost is unknown.
  virtual int sync_file(int file) = 0;
  virtual int sync_directory(int directory) = 0;
  virtual int close(int handle) = 0;

  // -EEXIST if `to` is taken.
  virtual int rename(int directory, const std::string& from, const std::string& to) = 0;
  // In place of what was called `to`.
  virtual int replace(int directory, const std::string& from, const std::string& to) = 0;
  virtual int remove_file(int directory, const std::string& name) = 0;
  virtual int remove_directory(int directory, const std::string& name) = 0;  // an empty one
  virtual int list(int directory, std::vector<std::string>& names) = 0;      // sorted
  // What this process may still write there.
  virtual int64_t free_bytes(int directory) = 0;
};

// The operating system's.
Storage& system_storage();

}  // namespace engine::checkpoint
