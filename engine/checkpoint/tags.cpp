#include "engine/checkpoint/tags.h"

#include <algorithm>

#include "engine/checkpoint/file_system.h"
#include "engine/config/json_reader.h"
#include "engine/core/error.h"

namespace engine::checkpoint {
namespace {

const char kFile[] = "tags.json";

std::string names_of(const std::map<std::string, std::string>& tags) {
  std::string names;
  for (const auto& [tag, step] : tags) names += (names.empty() ? "" : ", ") + tag;
  return names.empty() ? "there are none" : "there are " + names;
}

void write_tags(const std::string& directory, const std::map<std::string, std::string>& tags) {
  std::string text = "{";
  for (const auto& [tag, step] : tags)
    text += (text.size() > 1 ? ",\n " : "\n ") + json_string(tag) + ": " + json_string(step);
  const Directory inside = Directory::open(directory);
  const std::string temporary = "tags.json.new";
  inside.remove_file(temporary);  // of an attempt that was interrupted
  NewFile file = inside.create(temporary);
  file.write(text + "\n}\n");
  file.finish();
  inside.replace(temporary, kFile);
  inside.sync();
}

}  // namespace

std::map<std::string, std::string> read_tags(const std::string& directory, Storage& storage) {
  std::map<std::string, std::string> tags;
  const std::string path = directory + "/" + kFile;
  const std::vector<std::string> names = names_in(directory, storage);
  if (std::find(names.begin(), names.end(), kFile) == names.end()) return tags;
  try {
    const JsonValue json =
        read_json(ExistingFile(directory, kFile, storage).read_all(1 << 20), {}, ExitCode::checkpoint);
    for (const JsonValue::Member& member : json.members) tags[member.key] = member.value.string;
  } catch (const JsonError& error) {
    throw Error(ExitCode::checkpoint, str(path, ":", error.position().line, ": ", error.what(), "; mend or remove it"));
  }
  return tags;
}

void add_tag(const std::string& directory, const std::string& tag, const std::string& step) {
  std::map<std::string, std::string> tags = read_tags(directory);
  if (!is_plain_name(tag)) {
    throw Error(ExitCode::usage, str("\"", tag, "\" cannot be a tag; use letters, digits, \".\", \"_\" and \"-\""));
  }
  const auto [other, is_new] = tags.insert({tag, step});
  if (!is_new) {
    throw Error(ExitCode::usage,
                str("the tag ", tag, " names ", other->second, " already; take it away first with --remove"));
  }
  write_tags(directory, tags);
}

void remove_tag(const std::string& directory, const std::string& tag) {
  std::map<std::string, std::string> tags = read_tags(directory);
  if (tags.erase(tag) == 0) throw Error(ExitCode::usage, str("there is no tag ", tag, "; ", names_of(tags)));
  write_tags(directory, tags);
}

void move_tags(const std::string& directory, const std::string& from, const std::string& to) {
  std::map<std::string, std::string> tags = read_tags(directory);
  bool has_some = false;
  for (auto& [tag, step] : tags) {
    if (step != from) continue;
    step = to;
    has_some = true;
  }
  if (has_some) write_tags(directory, tags);
}

std::string step_of_tag(const std::string& directory, const std::string& tag) {
  const std::map<std::string, std::string> tags = read_tags(directory);
  const auto found = tags.find(tag);
  if (found != tags.end()) return found->second;
  throw Error(ExitCode::checkpoint, str("no checkpoint in ", directory, " has the tag ", tag, "; ", names_of(tags)));
}

}  // namespace engine::checkpoint
