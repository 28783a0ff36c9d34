// Names that a user gives to checkpoints of a run: retention keeps what has one.
//
// checkpoints/tags.json, e.g. {"best": "step-00000300"}; replaced as a whole.
#pragma once

#include <map>
#include <string>

#include "engine/checkpoint/storage.h"

namespace engine::checkpoint {

// Tag -> directory name; empty if there is no tags.json. Throws Error(checkpoint) if it cannot be read.
std::map<std::string, std::string> read_tags(const std::string& directory, Storage& storage = system_storage());

// Durable when it returns. A tag is a plain name; one that exists already throws Error(usage).
void add_tag(const std::string& directory, const std::string& tag, const std::string& step);
// Throws Error(usage) naming the tags there are.
void remove_tag(const std::string& directory, const std::string& tag);

// Tags of `from` now name `to`.
void move_tags(const std::string& directory, const std::string& from, const std::string& to);

// The directory name that a tag stands for; Error(checkpoint) naming the tags there are.
std::string step_of_tag(const std::string& directory, const std::string& tag);

}  // namespace engine::checkpoint
