// The bytes of a file or of standard input in order, decompressed where its name ends in .gz or .zst, through buffers
// of fixed size.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "engine/core/hash.h"

namespace engine::data {

// One step of a decompressor.
class Decoder {
 public:
  virtual ~Decoder() = default;
  // Takes what it uses off the front of `input`; what it gives is valid until the next call. False: damaged.
  virtual bool decode(std::string_view& input, std::string_view& output) = 0;
  // Whether the input may end here.
  virtual bool complete() const = 0;
};

enum class Decompress { no, by_name };

class TextStream {
 public:
  explicit TextStream(const std::string& path, Decompress decompress = Decompress::by_name);
  ~TextStream();
  TextStream(const TextStream&) = delete;

  // The next bytes, valid until the next call; empty at the end and after a problem.
  std::string_view next();
  // What went wrong, or empty: "unreadable" or "damaged compressed data".
  const std::string& problem() const { return problem_; }
  // Of the file as it lies on disk, once next() has reached the end.
  int64_t file_bytes() const { return offset_; }
  std::string file_sha256() { return to_hex(hash_.finish()); }

 private:
  bool refill();
  int file_;
  int64_t offset_ = 0;
  std::string buffer_, problem_;
  std::string_view input_;
  std::unique_ptr<Decoder> decoder_;  // none: plain bytes
  Sha256 hash_;
};

// "-", or with what it holds "-.jsonl", "-.txt.gz": standard input. It is read once, into a file without a name in
// TMPDIR (or /tmp) unless it is a file already, so that it can be read again.
bool is_standard_input(std::string_view name);
// Where a file that is called `name` relative to `base_directory` is.
std::string place_of(const std::string& base_directory, const std::string& name);

// "a/b.jsonl" of "a/b.jsonl.gz".
std::string_view without_compression_suffix(std::string_view path);

}  // namespace engine::data
