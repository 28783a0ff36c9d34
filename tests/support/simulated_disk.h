// A disk in memory that remembers every operation, so that a test can see each state a crash may leave behind.
//
// POSIX promises little: until a file is synced any of its writes may be missing, cut short or zeros; until a directory
// is synced any change of its entries may be missing, whatever came before or after it. What a sync has returned for
// is there.
#pragma once

#include <cerrno>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/checkpoint/storage.h"

namespace test {

class SimulatedDisk final : public engine::checkpoint::Storage {
 public:
  struct Operation {
    enum class Kind { write, link, make_directory, rename, unlink, sync_file, sync_directory };
    Kind kind;
    int node = 0;    // the file or directory it changes
    int target = 0;  // what link and make_directory put into it
    std::string name{}, to{}, data{};
    std::thread::id thread{};
  };
  // The tree: node 0 is the root, a node is a file or a directory.
  struct Node {
    bool is_directory = false;
    std::map<std::string, int> entries{};
    std::shared_ptr<const std::string> data = std::make_shared<const std::string>();
  };
  using Tree = std::vector<Node>;

  SimulatedDisk() : tree_(1) { tree_[0].is_directory = true; }
  explicit SimulatedDisk(Tree tree) : tree_(std::move(tree)) {}
  SimulatedDisk(const SimulatedDisk&) = delete;

  const Tree& tree() const { return tree_; }
  std::vector<Operation> operations() const { return operations_; }
  void forget_operations() { operations_.clear(); }
  // Called before every operation that may fail; an error it returns is what the caller gets. `bytes` of a write may be
  // lowered.
  std::function<int(const char* what, int64_t* bytes)> fault;

  static void apply(Tree& tree, const Operation& op) {
    using Kind = Operation::Kind;
    Node& node = tree[static_cast<size_t>(op.node)];
    switch (op.kind) {
      case Kind::write:
        node.data = std::make_shared<const std::string>(*node.data + op.data);
        break;
      case Kind::link:
      case Kind::make_directory:
        node.entries[op.name] = op.target;
        break;
      case Kind::rename:
        node.entries.erase(op.name);
        node.entries[op.to] = op.target;
        break;
      case Kind::unlink:
        node.entries.erase(op.name);
        break;
      case Kind::sync_file:
      case Kind::sync_directory:
        break;
    }
  }

  int open_directory(const std::string& path) override {
    std::lock_guard lock(mutex_);
    int node = 0;
    for (size_t begin = 0; begin < path.size();) {
      const size_t end = std::min(path.find('/', begin), path.size());
      if (end > begin && path.compare(begin, end - begin, ".") != 0) {
        const std::map<std::string, int>& entries = tree_[static_cast<size_t>(node)].entries;
        const auto found = entries.find(path.substr(begin, end - begin));
        if (found == entries.end()) return -ENOENT;
        node = found->second;
      }
      begin = end + 1;
    }
    return tree_[static_cast<size_t>(node)].is_directory ? handle(node) : -ENOTDIR;
  }
  int open_directory(int directory, const std::string& name) override { return open(directory, name, true); }
  int open_file(int directory, const std::string& name) override { return open(directory, name, false); }
  int make_directory(int directory, const std::string& name) override {
    const int made = make(directory, name, true);
    return made < 0 ? made : 0;
  }
  int create_file(int directory, const std::string& name) override {
    const int made = make(directory, name, false);
    if (made < 0) return made;
    std::lock_guard lock(mutex_);
    return handle(made);
  }

  int64_t file_bytes(int file) override {
    std::lock_guard lock(mutex_);
    return static_cast<int64_t>(node_of(file).data->size());
  }
  int64_t read(int file, void* to, int64_t bytes, int64_t offset) override {
    std::lock_guard lock(mutex_);
    const std::string& data = *node_of(file).data;
    const int64_t there = std::max<int64_t>(0, std::min<int64_t>(bytes, static_cast<int64_t>(data.size()) - offset));
    std::memcpy(to, data.data() + offset, static_cast<size_t>(there));
    return there;
  }
  int64_t write(int file, const void* data, int64_t bytes) override {
    if (const int error = fails("write", &bytes)) return error;
    std::lock_guard lock(mutex_);
    change({.kind = Operation::Kind::write,
            .node = handles_.at(file),
            .data = std::string(static_cast<const char*>(data), static_cast<size_t>(bytes))});
    return bytes;
  }
  int sync_file(int file) override {
    if (const int error = fails("fdatasync")) return error;
    std::lock_guard lock(mutex_);
    change({.kind = Operation::Kind::sync_file, .node = handles_.at(file)});
    return 0;
  }
  int sync_directory(int directory) override {
    if (const int error = fails("fsync")) return error;
    std::lock_guard lock(mutex_);
    change({.kind = Operation::Kind::sync_directory, .node = handles_.at(directory)});
    return 0;
  }
  int close(int number) override {
    {
      std::lock_guard lock(mutex_);
      handles_.erase(number);
    }
    return fails("close");
  }

  int rename(int directory, const std::string& from, const std::string& to) override {
    return move(directory, from, to, false);
  }
  int replace(int directory, const std::string& from, const std::string& to) override {
    return move(directory, from, to, true);
  }
  int remove_file(int directory, const std::string& name) override { return remove(directory, name, false); }
  int remove_directory(int directory, const std::string& name) override { return remove(directory, name, true); }
  int list(int directory, std::vector<std::string>& names) override {
    std::lock_guard lock(mutex_);
    names.clear();
    for (const auto& [name, node] : node_of(directory).entries) names.push_back(name);
    return 0;
  }
  int64_t free_bytes(int) override { return free_bytes_; }
  void set_free_bytes(int64_t bytes) { free_bytes_ = bytes; }
  int64_t open_handles() const { return static_cast<int64_t>(handles_.size()); }

 private:
  int fails(const char* what, int64_t* bytes = nullptr) { return fault ? fault(what, bytes) : 0; }
  const Node& node_of(int number) const { return tree_[static_cast<size_t>(handles_.at(number))]; }
  int handle(int node) {
    handles_[++last_handle_] = node;
    return last_handle_;
  }
  void change(Operation op) {
    op.thread = std::this_thread::get_id();
    apply(tree_, op);
    operations_.push_back(std::move(op));
  }
  int open(int directory, const std::string& name, bool is_directory) {
    std::lock_guard lock(mutex_);
    const auto found = node_of(directory).entries.find(name);
    if (found == node_of(directory).entries.end()) return -ENOENT;
    if (tree_[static_cast<size_t>(found->second)].is_directory != is_directory)
      return is_directory ? -ENOTDIR : -EINVAL;
    return handle(found->second);
  }
  int make(int directory, const std::string& name, bool is_directory) {
    if (const int error = fails(is_directory ? "mkdir" : "create")) return error;
    std::lock_guard lock(mutex_);
    if (node_of(directory).entries.contains(name)) return -EEXIST;
    const int node = static_cast<int>(tree_.size());
    tree_.emplace_back().is_directory = is_directory;
    change({.kind = is_directory ? Operation::Kind::make_directory : Operation::Kind::link,
            .node = handles_.at(directory),
            .target = node,
            .name = name});
    return node;
  }
  int move(int directory, const std::string& from, const std::string& to, bool replaces) {
    if (const int error = fails("rename")) return error;
    std::lock_guard lock(mutex_);
    const std::map<std::string, int>& entries = node_of(directory).entries;
    const auto found = entries.find(from);
    if (found == entries.end()) return -ENOENT;
    if (!replaces && entries.contains(to)) return -EEXIST;
    change({.kind = Operation::Kind::rename,
            .node = handles_.at(directory),
            .target = found->second,
            .name = from,
            .to = to});
    return 0;
  }
  int remove(int directory, const std::string& name, bool is_directory) {
    if (const int error = fails("unlink")) return error;
    std::lock_guard lock(mutex_);
    const auto found = node_of(directory).entries.find(name);
    if (found == node_of(directory).entries.end()) return -ENOENT;
    const Node& node = tree_[static_cast<size_t>(found->second)];
    if (node.is_directory != is_directory) return is_directory ? -ENOTDIR : -EISDIR;
    if (is_directory && !node.entries.empty()) return -ENOTEMPTY;
    change({.kind = Operation::Kind::unlink, .node = handles_.at(directory), .name = name});
    return 0;
  }

  std::mutex mutex_;
  Tree tree_;
  std::vector<Operation> operations_;
  std::map<int, int> handles_;  // -> node
  int last_handle_ = 2;
  int64_t free_bytes_ = int64_t{1} << 40;
};

}  // namespace test
