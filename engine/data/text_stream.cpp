#include "engine/data/text_stream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "engine/core/error.h"
#include "engine/data/spill_file.h"

namespace engine::data {
namespace {

constexpr size_t kBufferBytes = 1 << 18;

class GzipDecoder : public Decoder {
 public:
  GzipDecoder() { ENSURE(inflateInit2(&stream_, 15 + 16) == Z_OK, "zlib cannot start"); }
  ~GzipDecoder() override { inflateEnd(&stream_); }

  bool decode(std::string_view& input, std::string_view& output) override {
    if (complete_ && !input.empty()) {  // a file may be several gzip files in a row
      if (inflateReset(&stream_) != Z_OK) return false;
      complete_ = false;
    }
    if (complete_) return true;
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(input.data()));
    stream_.avail_in = static_cast<uInt>(input.size());
    stream_.next_out = reinterpret_cast<Bytef*>(buffer_.data());
    stream_.avail_out = static_cast<uInt>(buffer_.size());
    const int result = inflate(&stream_, Z_NO_FLUSH);
    input.remove_prefix(input.size() - stream_.avail_in);
    output = std::string_view(buffer_).substr(0, buffer_.size() - stream_.avail_out);
    complete_ = result == Z_STREAM_END;
    return result == Z_OK || result == Z_STREAM_END || result == Z_BUF_ERROR;
  }
  bool complete() const override { return complete_; }

 private:
  z_stream stream_{};
  std::string buffer_ = std::string(kBufferBytes, '\0');
  bool complete_ = false;
};

class ZstdDecoder : public Decoder {
 public:
  ZstdDecoder() { ENSURE(stream_ != nullptr, "libzstd cannot start"); }
  ~ZstdDecoder() override { ZSTD_freeDStream(stream_); }

  bool decode(std::string_view& input, std::string_view& output) override {
    if (complete_ && input.empty()) return true;
    ZSTD_inBuffer in{input.data(), input.size(), 0};
    ZSTD_outBuffer out{buffer_.data(), buffer_.size(), 0};
    const size_t result = ZSTD_decompressStream(stream_, &out, &in);
    input.remove_prefix(in.pos);
    output = std::string_view(buffer_).substr(0, out.pos);
    complete_ = result == 0;
    return ZSTD_isError(result) == 0;
  }
  bool complete() const override { return complete_; }

 private:
  ZSTD_DStream* stream_ = ZSTD_createDStream();
  std::string buffer_ = std::string(kBufferBytes, '\0');
  bool complete_ = false;
};

[[noreturn]] void refuse_standard_input(const std::string& why) {
  throw Error(ExitCode::data, "standard input is a source but " + why);
}

void copy_standard_input(int to) {
  std::string buffer(kBufferBytes, '\0');
  while (true) {
    const ssize_t count = read(STDIN_FILENO, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) refuse_standard_input(str("cannot be read: ", std::strerror(errno)));
    if (count == 0) return;
    for (ssize_t done = 0; done < count;) {
      const ssize_t written = write(to, buffer.data() + done, static_cast<size_t>(count - done));
      if (written < 0 && errno != EINTR)
        refuse_standard_input(str("cannot be kept: ", std::strerror(errno), "; set TMPDIR to a directory with room"));
      done += std::max<ssize_t>(0, written);
    }
  }
}

// A file with everything that standard input had.
int standard_input() {
  static const int file = [] {
    if (isatty(STDIN_FILENO) != 0) refuse_standard_input("is a terminal; send a text, e.g. with < text.txt");
    struct stat info {};
    if (fstat(STDIN_FILENO, &info) == 0 && S_ISREG(info.st_mode)) return STDIN_FILENO;
    std::string directory;
    const int kept = open_nameless_file(directory);
    if (kept < 0)
      refuse_standard_input(
          str("cannot be kept in ", directory, ": ", std::strerror(errno), "; set TMPDIR to a directory"));
    copy_standard_input(kept);
    return kept;
  }();
  return file;
}

}  // namespace

bool is_standard_input(std::string_view name) {
  return name == "-" || (name.starts_with("-.") && name.find('/') == std::string_view::npos);
}

std::string place_of(const std::string& base_directory, const std::string& name) {
  return is_standard_input(name) ? name : (std::filesystem::path(base_directory) / name).string();
}

std::string_view without_compression_suffix(std::string_view path) {
  for (std::string_view suffix : {".gz", ".zst"}) {
    if (path.ends_with(suffix)) return path.substr(0, path.size() - suffix.size());
  }
  return path;
}

TextStream::TextStream(const std::string& path, Decompress decompress)
    : file_(is_standard_input(path) ? dup(standard_input()) : open(path.c_str(), O_RDONLY | O_CLOEXEC)),
      buffer_(kBufferBytes, '\0') {
  struct stat info {};
  if (file_ < 0 || fstat(file_, &info) != 0 || !S_ISREG(info.st_mode)) problem_ = "unreadable";
  if (decompress == Decompress::no) return;
  if (path.ends_with(".gz")) decoder_ = std::make_unique<GzipDecoder>();
  if (path.ends_with(".zst")) decoder_ = std::make_unique<ZstdDecoder>();
}

TextStream::~TextStream() {
  if (file_ >= 0) close(file_);
}

bool TextStream::refill() {
  ssize_t count;
  do {
    count = pread(file_, buffer_.data(), buffer_.size(), static_cast<off_t>(offset_));
  } while (count < 0 && errno == EINTR);
  if (count < 0) problem_ = "unreadable";
  if (count == 0 && decoder_ && !decoder_->complete()) problem_ = "damaged compressed data";
  if (count <= 0) return false;
  input_ = std::string_view(buffer_).substr(0, static_cast<size_t>(count));
  hash_.update(input_);
  offset_ += count;
  return true;
}

std::string_view TextStream::next() {
  while (problem_.empty()) {
    std::string_view output;
    if (!decoder_) {
      output = input_;
      input_ = {};
    } else if (!decoder_->decode(input_, output)) {
      problem_ = "damaged compressed data";
      return {};
    }
    if (!output.empty()) return output;
    if (input_.empty() && !refill()) return {};
  }
  return {};
}

}  // namespace engine::data
