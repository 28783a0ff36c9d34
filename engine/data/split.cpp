#include "engine/data/split.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include "engine/core/error.h"
#include "engine/core/rng.h"
#include "engine/data/near_duplicates.h"

namespace engine::data {
namespace {

// The end of the source's text; the document it begins in is cut.
Split split_tail(SourceDocuments& source, double fraction) {
  Split split{.train = std::move(source.documents), .held_out = {}};
  source.documents.clear();
  int64_t bytes = 0;
  for (const Document& document : split.train) bytes += document.bytes();
  int64_t left = bytes - static_cast<int64_t>(static_cast<double>(bytes) * fraction);
  size_t cut = 0;  // the first document that is not all in training
  for (; cut < split.train.size() && left >= split.train[cut].bytes(); ++cut) left -= split.train[cut].bytes();
  const auto first = split.train.begin() + static_cast<int64_t>(cut);
  split.held_out.assign(std::make_move_iterator(first), std::make_move_iterator(split.train.end()));
  split.train.erase(first, split.train.end());
  if (left > 0 && !split.held_out.empty()) {
    split.train.push_back(split.held_out[0]);
    split.train.back().keep_front(left);
    split.held_out[0].drop_front(left);
  }
  return split;
}

struct Member {
  size_t source, document;
};

// Documents of all sources by near-duplicate group.
std::map<int64_t, std::vector<Member>> group_members(const std::vector<SourceDocuments>& sources) {
  std::vector<const Document*> documents;
  std::vector<Member> members;
  for (size_t s = 0; s < sources.size(); ++s) {
    for (size_t d = 0; d < sources[s].documents.size(); ++d) {
      documents.push_back(&sources[s].documents[d]);
      members.push_back({s, d});
    }
  }
  const std::vector<int64_t> groups = near_duplicate_groups(documents);
  std::map<int64_t, std::vector<Member>> by_group;
  for (size_t i = 0; i < members.size(); ++i) by_group[groups[i]].push_back(members[i]);
  return by_group;
}

// For a source of few, large documents: its smallest group, if it has another one, though that is more than wanted.
void hold_out_smallest(const std::vector<SourceDocuments>& sources,
                       const std::map<int64_t, std::vector<Member>>& groups, size_t source,
                       std::map<int64_t, bool>& held_out) {
  std::vector<std::pair<int64_t, int64_t>> own;  // bytes and number of groups of this source alone
  for (const auto& [group, members] : groups) {
    int64_t bytes = 0;
    bool alone = true;
    for (const Member& m : members) {
      bytes += sources[m.source].documents[m.document].bytes();
      alone = alone && m.source == source;
    }
    if (alone) own.push_back({bytes, group});
  }
  if (own.size() >= 2) held_out[std::min_element(own.begin(), own.end())->second] = true;
}

}  // namespace

std::vector<Split> split_sources(std::vector<SourceDocuments>&& sources, const HeldOutConfig& config, uint64_t seed) {
  std::vector<Split> splits(sources.size());
  if (config.split == "tail" || config.fraction == 0) {
    for (size_t s = 0; s < sources.size(); ++s) splits[s] = split_tail(sources[s], config.fraction);
    return splits;
  }
  std::vector<int64_t> wanted, taken(sources.size());
  for (const SourceDocuments& source : sources) {
    wanted.push_back(static_cast<int64_t>(static_cast<double>(source.bytes()) * config.fraction));
  }
  const auto groups = group_members(sources);
  const uint64_t key = derive_key(seed, "held_out");
  std::vector<std::pair<uint64_t, int64_t>> order;  // of a group by its first document's name
  for (const auto& [group, members] : groups) {
    const std::string name = sources[members[0].source].documents[members[0].document].name();
    order.push_back({xxh3_64(name.data(), static_cast<int64_t>(name.size()), key), group});
  }
  std::sort(order.begin(), order.end());
  std::map<int64_t, bool> held_out;
  for (const auto& [hash, group] : order) {
    std::vector<int64_t> bytes(sources.size());
    for (const Member& m : groups.at(group)) {
      bytes[m.source] += sources[m.source].documents[m.document].bytes();
    }
    bool fits = true;  // a group is taken if every source it touches still wants that much, or wants anything at all
    for (size_t s = 0; s < sources.size(); ++s) {
      const int64_t room = wanted[s] - taken[s];
      fits = fits && (bytes[s] == 0 || (room > 0 && bytes[s] <= room + wanted[s] / 4));
    }
    held_out[group] = fits;
    for (size_t s = 0; fits && s < sources.size(); ++s) taken[s] += bytes[s];
  }
  for (size_t s = 0; s < sources.size(); ++s) {
    if (taken[s] == 0) hold_out_smallest(sources, groups, s, held_out);
  }
  for (const auto& [group, members] : groups) {
    for (const Member& m : members) {
      Split& split = splits[m.source];
      (held_out[group] ? split.held_out : split.train).push_back(std::move(sources[m.source].documents[m.document]));
    }
  }
  for (size_t s = 0; s < splits.size(); ++s) {
    if (splits[s].held_out.empty() || splits[s].train.empty()) {
      throw Error(ExitCode::data,
                  str("source \"", sources[s].name,
                      "\" has too few documents that differ from each "
                      "other to hold out ",
                      config.fraction * 100, " % of them; set data.held_out.split to \"tail\", or give more files"));
    }
    for (std::vector<Document>* part : {&splits[s].train, &splits[s].held_out}) {
      std::sort(part->begin(), part->end());
    }
  }
  return splits;
}

}  // namespace engine::data
