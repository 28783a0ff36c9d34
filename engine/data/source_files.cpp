#include "engine/data/source_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "engine/core/error.h"

namespace engine::data {

namespace fs = std::filesystem;

namespace {

// The set at pattern[0] == '['; false if there is no ']'.
bool match_set(std::string_view& pattern, char c, bool& matches) {
  const size_t end = pattern.find(']', 2);
  if (end == std::string_view::npos) return false;
  const std::string_view set = pattern.substr(1, end - 1);
  matches = false;
  for (size_t i = 0; i < set.size(); ++i) {
    if (i + 2 < set.size() && set[i + 1] == '-') {
      matches = matches || (c >= set[i] && c <= set[i + 2]);
      i += 2;
    } else {
      matches = matches || c == set[i];
    }
  }
  pattern.remove_prefix(end + 1);
  return true;
}

bool is_glob(const std::string& pattern) {
  return pattern.find_first_of("*?[") != std::string::npos;
}

void add_if_regular(const fs::path& path, std::vector<std::string>& files) {
  std::error_code error;
  if (fs::is_regular_file(fs::symlink_status(path, error))) files.push_back(path.string());
}

// Every regular file below `directory`.
void walk(const fs::path& directory, std::vector<std::string>& files) {
  std::error_code error;
  fs::recursive_directory_iterator it(directory, fs::directory_options::skip_permission_denied, error), end;
  for (; !error && it != end; it.increment(error)) add_if_regular(it->path(), files);
}

// The directory that holds everything a glob can match.
std::string fixed_prefix(const std::string& pattern) {
  const size_t wild = pattern.find_first_of("*?[");
  const size_t slash = pattern.rfind('/', wild);
  return slash == std::string::npos ? "." : slash == 0 ? "/" : pattern.substr(0, slash);
}

}  // namespace

bool glob_match(std::string_view pattern, std::string_view path) {
  while (!pattern.empty()) {
    if (pattern.starts_with("**")) {
      pattern.remove_prefix(2);
      if (pattern.starts_with("/") && glob_match(pattern.substr(1), path)) return true;  // no directory at all
      for (size_t skipped = 0; skipped <= path.size(); ++skipped) {
        if (glob_match(pattern, path.substr(skipped))) return true;
      }
      return false;
    }
    if (pattern.front() == '*') {
      pattern.remove_prefix(1);
      for (size_t skipped = 0;; ++skipped) {
        if (glob_match(pattern, path.substr(skipped))) return true;
        if (skipped == path.size() || path[skipped] == '/') return false;
      }
    }
    if (path.empty()) return false;
    bool matches = pattern.front() == path.front() || (pattern.front() == '?' && path.front() != '/');
    if (pattern.front() != '[' || !match_set(pattern, path.front(), matches)) pattern.remove_prefix(1);
    if (!matches) return false;
    path.remove_prefix(1);
  }
  return path.empty();
}

std::vector<std::string> find_files(const std::vector<std::string>& patterns, const std::vector<std::string>& excludes,
                                    const std::string& base_directory) {
  std::vector<std::string> files;
  for (const std::string& given : patterns) {
    const std::string pattern = (fs::path(base_directory) / given).lexically_normal().string();
    std::vector<std::string> found, below;
    std::error_code error;
    if (is_glob(pattern)) {
      walk(fixed_prefix(pattern), below);
      for (const std::string& path : below) {
        if (glob_match(pattern, path)) found.push_back(path);
      }
    } else if (fs::is_directory(pattern, error)) {
      walk(pattern, found);
    } else if (fs::is_regular_file(pattern, error)) {  // a link given by name is followed
      found.push_back(pattern);
    }
    if (found.empty()) {
      throw Error(ExitCode::data, str("\"", given, "\" matches no file (looked for ", pattern,
                                      "); give a file, a directory or a glob, relative to the config file"));
    }
    files.insert(files.end(), found.begin(), found.end());
  }
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  std::erase_if(files, [&](const std::string& path) {
    return std::any_of(excludes.begin(), excludes.end(), [&](const std::string& exclude) {
      return glob_match((fs::path(base_directory) / exclude).lexically_normal().string(), path) ||
             glob_match(exclude, path);
    });
  });
  return files;
}

bool read_file(const std::string& path, std::string& text) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  struct stat info {};
  bool good = fstat(file, &info) == 0 && S_ISREG(info.st_mode);
  text.resize(good ? static_cast<size_t>(info.st_size) : 0);
  size_t done = 0;
  while (good && done < text.size()) {
    const ssize_t count = pread(file, text.data() + done, text.size() - done, static_cast<off_t>(done));
    good = count > 0;
    if (good) done += static_cast<size_t>(count);
  }
  close(file);
  return good;
}

bool is_text(std::string_view bytes) {
  for (size_t i = 0; i < bytes.size();) {
    const unsigned char lead = static_cast<unsigned char>(bytes[i]);
    if (lead == 0) return false;
    const size_t length = lead < 0x80                   ? 1
                          : lead >= 0xC2 && lead < 0xE0 ? 2
                          : lead >= 0xE0 && lead < 0xF0 ? 3
                          : lead >= 0xF0 && lead < 0xF5 ? 4
                                                        : 0;
    if (length == 0 || i + length > bytes.size()) return false;
    uint32_t code = lead;
    for (size_t j = 1; j < length; ++j) {
      const unsigned char next = static_cast<unsigned char>(bytes[i + j]);
      if ((next & 0xC0) != 0x80) return false;
      code = (j == 1 ? lead & (0x3Fu >> (length - 1)) : code) << 6 | (next & 0x3F);
    }
    // overlong forms, surrogates and beyond the last code point
    if ((length == 3 && (code < 0x800 || (code >= 0xD800 && code < 0xE000))) ||
        (length == 4 && (code < 0x10000 || code > 0x10FFFF))) {
      return false;
    }
    i += length;
  }
  return true;
}

}  // namespace engine::data
