// What of a config may differ when a run goes on from a checkpoint.
#pragma once

#include <string>
#include <vector>

#include "engine/config/config.h"

namespace engine::train {

enum class ChangeKind {
  identity,    // makes it another training: refused unless allowed
  trajectory,  // the training takes another course from here: said, and recorded in the checkpoint's lineage
  free,        // changes no bit of the training
};

// Of a key as describe_keys() spells it, e.g. "data.sources[].name". Keys that choose the text are free, since the
// text they lead to is compared itself. Throws Error(bug) for a key that config_change.cpp does not classify.
ChangeKind change_kind(const std::string& key);

struct ConfigChange {
  std::string key;   // "data.sources[0].name"
  std::string text;  // "data.sources[0].name: \"a\" in the checkpoint, \"b\" here"
  ChangeKind kind = ChangeKind::free;
};

// In the order of the field lists.
std::vector<ConfigChange> config_changes(const Config& saved, const Config& ours);

// Throws Error(usage) for a name that no key has or begins with. "data" also stands for the text itself.
void check_allowed_names(const std::vector<std::string>& allowed);

// Whether a key is one of `allowed` or lies below one of them.
bool is_allowed(const std::string& key, const std::vector<std::string>& allowed);

// Throws Error(checkpoint) with every change of identity that is not allowed.
void check_changes(const std::vector<ConfigChange>& changes, const std::vector<std::string>& allowed);

}  // namespace engine::train
