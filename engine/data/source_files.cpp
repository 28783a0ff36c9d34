#include "engine/data/source_files.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "engine/core/error.h"
#include "engine/data/text_stream.h"

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

// Every regular file below `directory`; with `hidden` also those whose path from there has a name with a leading dot.
std::vector<fs::path> walk(const fs::path& directory, bool hidden) {
  std::vector<fs::path> files;
  std::error_code error;
  if (!fs::is_directory(directory, error)) return files;
  fs::recursive_directory_iterator it(directory, fs::directory_options::skip_permission_denied, error), end;
  for (; !error && it != end; it.increment(error)) {
    std::error_code gone;  // a file that vanishes meanwhile is not there
    const fs::file_status status = it->symlink_status(gone);
    if (!hidden && it->path().filename().string().starts_with('.')) {
      if (fs::is_directory(status)) it.disable_recursion_pending();
    } else if (fs::is_regular_file(status)) {
      files.push_back(it->path());
    }
  }
  if (error) {
    throw Error(ExitCode::data, str("cannot list everything below ", directory.string(), ": ", error.message(),
                                    "; make it readable or leave it out of data.sources"));
  }
  return files;
}

// The directory that holds everything a glob can match; empty: the one it is relative to.
std::string fixed_prefix(const std::string& pattern) {
  const size_t slash = pattern.rfind('/', pattern.find_first_of("*?["));
  return slash == std::string::npos ? "" : pattern.substr(0, std::max<size_t>(1, slash));
}

std::string normal(const std::string& path) {
  return fs::path(path).lexically_normal().string();
}

// What one pattern leads to: files by their full path.
std::vector<fs::path> files_of(const std::string& pattern, const fs::path& base) {
  const fs::path place = base / pattern;  // an absolute pattern stands for itself
  std::error_code error;
  if (fs::is_regular_file(place, error)) return {place};  // a link given by name is followed
  if (!is_glob(pattern)) return walk(place, false);
  const std::string prefix = fixed_prefix(pattern);
  const bool hidden = pattern.starts_with('.') || pattern.find("/.", prefix.size()) != std::string::npos;
  std::vector<fs::path> files = walk(base / prefix, hidden);
  std::erase_if(files, [&](const fs::path& path) {
    const std::string below = path.lexically_relative(base / prefix).generic_string();
    return !glob_match(pattern, prefix.empty() ? below : (fs::path(prefix) / below).string());
  });
  return files;
}

std::string nothing_found(const std::string& given, const fs::path& place) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(place, error), target = fs::status(place, error);
  const char* what = fs::is_directory(target)                             ? "is a directory without a readable file"
                     : fs::is_symlink(status) && !fs::exists(target)      ? "is a link to a file that is not there"
                     : fs::exists(target) && !fs::is_regular_file(target) ? "is no regular file"
                                                                          : "matches no file";
  return str("\"", given, "\" ", what, " (looked for ", place.string(),
             "); give a file, a directory or a glob; paths in a config start at its directory");
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
  const fs::path base = fs::absolute(base_directory.empty() ? "." : base_directory).lexically_normal();
  std::map<std::string, std::string> names;  // by place, so that a file two patterns lead to is taken once
  for (const std::string& given : patterns) {
    if (is_standard_input(given)) {
      names.emplace(given, given);
      continue;
    }
    const std::vector<fs::path> found = files_of(normal(given), base);
    if (found.empty()) throw Error(ExitCode::data, nothing_found(given, base / given));
    for (const fs::path& path : found) {
      const fs::path place = path.lexically_normal();
      const fs::path name = fs::path(given).is_absolute() ? place : place.lexically_relative(base);
      names.emplace(place.string(), name.generic_string());
    }
  }
  std::vector<std::string> files;
  for (const auto& [place, name] : names) {
    const auto leaves_out = [&, &place = place, &name = name](const std::string& exclude) {
      return glob_match(normal(exclude), name) || glob_match((base / exclude).lexically_normal().string(), place);
    };
    if (std::none_of(excludes.begin(), excludes.end(), leaves_out)) files.push_back(name);
  }
  std::sort(files.begin(), files.end());
  return files;
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
