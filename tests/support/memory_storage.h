// Directories of files in memory, for tests that read what they damage.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "engine/checkpoint/storage.h"

namespace test {

class MemoryStorage final : public engine::checkpoint::Storage {
 public:
  using Files = std::map<std::string, std::string>;  // content by name
  std::map<std::string, Files> directories;

  // Takes in the files of a directory of the system under the same path.
  void copy_in(const std::string& path) {
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      std::ifstream file(entry.path(), std::ios::binary);
      directories[path][entry.path().filename().string()] = {std::istreambuf_iterator<char>(file), {}};
    }
  }

  int open_directory(const std::string& path) override {
    if (!directories.contains(path)) return -ENOENT;
    return add({path, nullptr});
  }
  int open_directory(int directory, const std::string& name) override {
    return open_directory(open_[directory].path + "/" + name);
  }
  int open_file(int directory, const std::string& name) override {
    Files& files = directories[open_[directory].path];
    const auto found = files.find(name);
    return found == files.end() ? -ENOENT : add({"", &found->second});
  }
  int64_t file_bytes(int file) override { return static_cast<int64_t>(open_[file].content->size()); }
  int64_t read(int file, void* to, int64_t bytes, int64_t offset) override {
    const std::string& content = *open_[file].content;
    const int64_t count = std::clamp<int64_t>(static_cast<int64_t>(content.size()) - offset, 0, bytes);
    if (count > 0) std::memcpy(to, content.data() + offset, static_cast<size_t>(count));
    return count;
  }
  int close(int handle) override {
    open_.erase(handle);
    return 0;
  }
  int list(int directory, std::vector<std::string>& names) override {
    names.clear();
    for (const auto& [name, content] : directories[open_[directory].path]) names.push_back(name);
    return 0;
  }

  // it is only read
  int make_directory(int, const std::string&) override { return -EROFS; }
  int create_file(int, const std::string&) override { return -EROFS; }
  int64_t write(int, const void*, int64_t) override { return -EROFS; }
  int sync_file(int) override { return -EROFS; }
  int sync_directory(int) override { return -EROFS; }
  int rename(int, const std::string&, const std::string&) override { return -EROFS; }
  int replace(int, const std::string&, const std::string&) override { return -EROFS; }
  int remove_file(int, const std::string&) override { return -EROFS; }
  int remove_directory(int, const std::string&) override { return -EROFS; }
  int64_t free_bytes(int) override { return 0; }

 private:
  struct Open {
    std::string path;
    const std::string* content;
  };
  int add(const Open& open) {
    open_[next_] = open;
    return next_++;
  }
  std::map<int, Open> open_;
  int next_ = 3;
};

}  // namespace test
