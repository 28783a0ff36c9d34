// Text that does not fit into memory: bytes are appended to a file without a name and read back by pread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace engine::data {

class SpillFile {
 public:
  // In TMPDIR, or /tmp. Throws Error(environment) where nothing can be written.
  SpillFile();
  // A file that is there already, for reading.
  explicit SpillFile(const std::string& path);
  ~SpillFile();
  SpillFile(const SpillFile&) = delete;

  // Returns where the bytes begin. What follows directly stands behind them.
  int64_t append(std::string_view bytes);
  bool is_open() const { return file_ >= 0; }
  void read(int64_t begin, int64_t count, void* to) const;
  std::string read(int64_t begin, int64_t count) const;

 private:
  std::string directory_;  // before the file that is made in it
  int file_;
  int64_t size_ = 0;
};

// A file without a name that others may write to, and the directory it is in.
int open_nameless_file(std::string& directory);

}  // namespace engine::data
