#include "tools/text_sets.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <map>

#include "engine/core/error.h"
#include "engine/data/document_reader.h"
#include "engine/data/source_files.h"

namespace tools {
namespace {

using namespace engine;
namespace fs = std::filesystem;

data::TokenSet read_set(const std::string& name, const std::vector<std::string>& files, int64_t vocab_size) {
  std::vector<data::Document> documents;
  std::string left_out;
  int64_t num_left_out = 0;
  const auto leave_out = [&](const std::string& what, const std::string& why) {
    if (num_left_out++ == 0) left_out = str(what, " is ", why);
  };
  for (const std::string& path : files) {
    data::FileFacts facts;
    const std::string problem = data::read_documents(path, path, INT64_MAX, facts, [&](data::Document document) {
      if (data::is_text(document.text)) {
        documents.push_back(std::move(document));
      } else {
        leave_out(document.name(), "not UTF-8 text");
      }
    });
    if (!problem.empty()) leave_out(path, problem);
  }
  std::vector<const data::Document*> pointers;
  for (const data::Document& document : documents) pointers.push_back(&document);
  data::TokenSet set = data::tokenize(name, pointers, vocab_size);
  if (set.tokens.size() < 2) {
    throw Error(ExitCode::data, str(name, " has ", set.num_bytes, " bytes of text but at least 2 are needed",
                                    num_left_out > 0 ? "; " + left_out : "", "; give other files"));
  }
  if (num_left_out > 0) {
    std::fprintf(stderr, "warning: %lld documents of %s are left out; %s\n", static_cast<long long>(num_left_out),
                 name.c_str(), left_out.c_str());
  }
  return set;
}

// NAME=FILES, unless the whole is the name of a file.
std::pair<std::string, std::string> name_and_files(const std::string& text) {
  const size_t equals = text.find('=');
  std::error_code error;
  const bool named = equals != std::string::npos && equals > 0 && text.find('/') > equals && !fs::exists(text, error);
  return named ? std::pair(text.substr(0, equals), text.substr(equals + 1)) : std::pair(text, text);
}

std::vector<std::string> folders_in(const std::string& directory) {
  std::error_code error;
  std::vector<std::string> folders;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    if (entry.is_directory(error) && !entry.path().filename().string().starts_with('.'))
      folders.push_back(entry.path().filename().string());
  }
  if (error) throw Error(ExitCode::data, str("cannot list ", directory, ": ", error.message(), "; give a directory"));
  if (folders.empty())
    throw Error(ExitCode::data, str(directory, " has no folder in it; --by-folder wants a directory of folders"));
  std::sort(folders.begin(), folders.end());
  return folders;
}

bool is_digits(const std::string& text, size_t at, size_t count) {
  for (size_t i = at; i < at + count; ++i) {
    if (i >= text.size() || text[i] < '0' || text[i] > '9') return false;
  }
  return at == 0 || text[at - 1] < '0' || text[at - 1] > '9';
}

}  // namespace

std::string month_of(const std::string& path) {
  for (size_t at = 0; at + 6 <= path.size(); ++at) {
    if (!is_digits(path, at, 4)) continue;
    const bool apart = at + 7 <= path.size() && std::string_view("-/_.").find(path[at + 4]) != std::string_view::npos;
    const std::string year = path.substr(at, 4), month = path.substr(at + (apart ? 5 : 4), 2);
    const bool two = month.size() == 2 && month[0] >= '0' && month[0] <= '9' && month[1] >= '0' && month[1] <= '9';
    if (two && year >= "1900" && year < "2100" && month >= "01" && month <= "12") return year + "-" + month;
  }
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return "no date";
  std::tm utc{};
  gmtime_r(&info.st_mtime, &utc);
  char text[16];
  std::strftime(text, sizeof(text), "%Y-%m", &utc);
  return text;
}

std::vector<data::TokenSet> read_text_sets(const TextChoice& choice, int64_t vocab_size) {
  std::vector<data::TokenSet> sets;
  for (const std::string& text : choice.data) {
    const auto [name, files] = name_and_files(text);
    sets.push_back(read_set(name, data::find_files({files}, {}, ""), vocab_size));
  }
  for (const std::string& directory : choice.by_folder) {
    for (const std::string& folder : folders_in(directory))
      sets.push_back(read_set(folder, data::find_files({directory + "/" + folder}, {}, ""), vocab_size));
  }
  for (const std::string& pattern : choice.by_date) {
    std::map<std::string, std::vector<std::string>> months;
    for (const std::string& path : data::find_files({pattern}, {}, "")) months[month_of(path)].push_back(path);
    for (const auto& [month, files] : months) sets.push_back(read_set(month, files, vocab_size));
  }
  return sets;
}

}  // namespace tools
