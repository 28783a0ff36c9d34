#include "engine/data/text_stream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cerrno>

#include "engine/core/error.h"

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

}  // namespace

std::string_view without_compression_suffix(std::string_view path) {
  for (std::string_view suffix : {".gz", ".zst"}) {
    if (path.ends_with(suffix)) return path.substr(0, path.size() - suffix.size());
  }
  return path;
}

TextStream::TextStream(const std::string& path)
    : file_(open(path.c_str(), O_RDONLY | O_CLOEXEC)), buffer_(kBufferBytes, '\0') {
  struct stat info {};
  if (file_ < 0 || fstat(file_, &info) != 0 || !S_ISREG(info.st_mode)) problem_ = "unreadable";
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
