// manifest.json and COMMIT of a checkpoint, read from bytes.
//
// A manifest that was parsed is consistent in itself: every file, weight and tensor is named once, every tensor lies
// in a file that is listed, the moments of a weight tile it exactly, and every class of state is there.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace engine::checkpoint {

struct Manifest {
  struct File {
    int64_t bytes = 0;
    std::string sha256;
  };
  struct Weight {
    std::string file, tensor, xxh3;
    std::vector<int64_t> shape;
    int64_t elements = 0;
  };
  struct Moments {  // of elements [begin, begin + count) of a weight
    std::string file;
    int64_t begin = 0, count = 0;
  };
  int64_t step = 0;
  std::map<std::string, File> files;
  std::map<std::string, Weight> weights;
  std::map<std::string, std::vector<Moments>> moments;  // by begin
  int64_t elements() const;                             // of all weights
};

// The names that the two moments of a range have in their file.
std::string moment_tensor(const char* moment, const std::string& weight, int64_t begin);

// Throws Error(checkpoint) beginning with `name`, which stands for the text.
Manifest parse_manifest(std::string_view text, const std::string& name);

// Throws Error(checkpoint) unless `commit` is a COMMIT and names this manifest. `directory` is for the message.
void check_commit(std::string_view commit, std::string_view manifest, const std::string& directory);

}  // namespace engine::checkpoint
