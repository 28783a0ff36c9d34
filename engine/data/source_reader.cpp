#include "engine/data/source_reader.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <vector>

#include "engine/core/error.h"
#include "engine/core/rng.h"
#include "engine/core/stop_request.h"
#include "engine/data/document_reader.h"
#include "engine/data/source_files.h"
#include "engine/data/text_checks.h"
#include "engine/data/text_stream.h"
#include "engine/data/unlike_source.h"

namespace engine::data {
namespace {

// What can be told of a text piece by piece.
struct TextFacts {
  bool text = true, control = false, contains = false;
  int64_t digits = 0;
  std::vector<Hash128> hashes;
};

TextFacts facts_of(const Document& document, const FilterConfig& filters) {
  TextFacts facts;
  std::string before;  // the end of the last piece, where one of the texts looked for may begin
  size_t longest = 0;
  for (const std::string& part : filters.containing) longest = std::max(longest, part.size());
  document.for_each_piece([&](std::string_view piece) {
    facts.text = facts.text && is_text(piece);
    facts.digits += std::count_if(piece.begin(), piece.end(), [](char c) { return c >= '0' && c <= '9'; });
    facts.hashes.push_back(xxh3_128(piece.data(), static_cast<int64_t>(piece.size())));
    if (facts.text && filters.control_characters == "leave_out")
      facts.control = facts.control || find_control_characters(piece).count > 0;
    if (longest == 0) return;
    const std::string both = document.spill ? before + std::string(piece) : "";
    for (const std::string& part : filters.containing)
      facts.contains = facts.contains || (document.spill ? both : piece).find(part) != std::string::npos;
    before = both.substr(both.size() - std::min(both.size(), longest - 1));
  });
  return facts;
}

// The reason to leave a text out, or an empty string.
std::string reason_against(const Document& document, const FilterConfig& filters, SeenTexts& seen) {
  const TextFacts facts = facts_of(document, filters);
  if (!facts.text) return kNotText;
  const int64_t bytes = document.bytes();
  if (bytes == 0) return "empty";
  if (filters.min_bytes && bytes < filters.min_bytes->value) return "shorter than filters.min_bytes";
  if (filters.max_digit_fraction &&
      static_cast<double>(facts.digits) / static_cast<double>(bytes) > *filters.max_digit_fraction) {
    return "more digits than filters.max_digit_fraction";
  }
  if (facts.control) return "control characters (filters.control_characters)";
  if (facts.contains) return "a text of filters.containing in it";
  if (filters.max_line_share || filters.min_compression || filters.max_compression) {
    const std::string whole = document.spill ? document.beginning(bytes) : "";  // these need all of it
    const std::string_view text = document.spill ? whole : document.text;
    if (filters.max_line_share && most_repeated_line(text).share > *filters.max_line_share)
      return "one line repeated beyond filters.max_line_share";
    const double ratio = filters.min_compression || filters.max_compression ? compression_ratio(text) : 1;
    if (ratio < filters.min_compression.value_or(0)) return "compressible less than filters.min_compression";
    if (ratio > filters.max_compression.value_or(INFINITY)) return "compressible more than filters.max_compression";
  }
  if (filters.dedup == "none") return "";
  const Hash128 hash = facts.hashes.size() == 1
                           ? facts.hashes[0]
                           : xxh3_128(facts.hashes.data(), static_cast<int64_t>(facts.hashes.size() * sizeof(Hash128)));
  return seen.insert({hash.low, hash.high}).second ? "" : "the same text as another document";
}

constexpr int64_t kNoLimit = INT64_MAX;
constexpr int64_t kLongestComment = 1 << 20;  // read beyond max_bytes, since a stripped comment does not count

class SourceReader {
 public:
  SourceReader(const SourceConfig& config, const FilterConfig& filters, const std::string& base_directory,
               uint64_t seed, SeenTexts& seen, TextKeeper& keeper, BadRecords bad_records)
      : config_(config),
        filters_(filters),
        base_(base_directory),
        rank_key_(derive_key(seed, "cap")),
        max_bytes_(config.max_bytes ? config.max_bytes->value : kNoLimit),
        seen_(seen),
        keeper_(keeper),
        bad_records_(bad_records),
        source_{.name = config.name, .documents = {}, .left_out = {}, .files = {}, .no_text = {}} {}

  SourceDocuments read() {
    const std::vector<std::string> paths = find_files(config_.files, config_.exclude, base_);
    if (paths.empty()) {
      throw Error(ExitCode::data, str("source \"", config_.name, "\" has no file left: its exclude matches every one; ",
                                      "change exclude or files"));
    }
    for (const std::string& path : paths) {
      FileFacts facts;
      const std::string problem = read_file(
          path, facts, [this](Document document) { take(std::move(document)); },
          [this](const std::string& record, const std::string& what) { skip(record, what); });
      if (problem.empty()) {
        source_.files.emplace(path, facts);
      } else {
        leave_out(path, problem);
      }
    }
    if (max_bytes_ < kNoLimit) cap();
    std::sort(source_.documents.begin(), source_.documents.end());
    if (filters_.unlike_source == "leave_out") leave_out_unlike();
    if (source_.documents.empty()) refuse();
    for (Document& document : source_.documents) keep(document);
    return std::move(source_);
  }

 private:
  struct Entry {
    uint64_t rank;  // a random order that depends on the names alone
    int64_t size;
    bool has_text;
  };

  std::string read_file(const std::string& path, FileFacts& facts, const std::function<void(Document)>& use,
                        const BadRecordUse& bad_record) const {
    throw_if_stop_requested();
    const int64_t limit = max_bytes_ < kNoLimit - kLongestComment ? max_bytes_ + kLongestComment : kNoLimit;
    return read_documents(place_of(base_, path), path, limit, facts, use, &keeper_, bad_record);
  }

  void skip(const std::string& record, const std::string& problem) {
    if (bad_records_ == BadRecords::error)
      throw Error(ExitCode::data, bad_record_message(record, problem) + ", or set data.on_bad_record to \"skip\"");
    leave_out(str(record, ": ", problem), "unreadable as a record (data.on_bad_record)");
  }

  void strip(Document& document) const {
    if (config_.strip != "leading-comment") return;
    const std::string begins = document.spill ? document.beginning(kLongestComment) : std::move(document.text);
    std::string stripped = strip_leading_comment(begins);
    const int64_t comment = static_cast<int64_t>(begins.size() - stripped.size());
    if (document.spill) return document.drop_front(comment);
    document.text = std::move(stripped);
    document.text_begin = comment;
  }

  void take(Document document) {
    strip(document);
    const std::string reason = reason_against(document, filters_, seen_);
    if (!reason.empty()) return leave_out(document.name(), reason);
    const int64_t size = document.bytes();
    // under a small cap texts are forgotten instead
    if (max_bytes_ > keeper_.most_held && keeper_.held + held_bytes_ + size > keeper_.most_held && !document.spill)
      document.move_to(keeper_.file());
    if (!document.spill) held_bytes_ += size;
    if (max_bytes_ < kNoLimit) {
      const std::string name = document.name();
      entries_.push_back({xxh3_64(name.data(), static_cast<int64_t>(name.size()), rank_key_), size, true});
      if (!document.spill) with_text_.push_back(source_.documents.size());
    }
    source_.documents.push_back(std::move(document));
    if (held_bytes_ / 2 > max_bytes_) forget_texts();
  }

  // What stays in memory counts against what may.
  void keep(Document& document) {
    if (document.spill) return;
    if (keeper_.held + document.bytes() > keeper_.most_held) return document.move_to(keeper_.file());
    keeper_.held += document.bytes();
  }

  void leave_out(const std::string& name, const std::string& reason) {
    source_.leave_out(name, reason);
    if (reason == kNotText || reason == "unreadable" || reason.starts_with("damaged")) source_.no_text[name] = reason;
  }

  bool comes_before(size_t a, size_t b) const {
    return entries_[a].rank != entries_[b].rank ? entries_[a].rank < entries_[b].rank
                                                : source_.documents[a] < source_.documents[b];
  }

  // Lets go of the texts that are least likely to be wanted under the cap; the first one always stays.
  void forget_texts() {
    std::sort(with_text_.begin(), with_text_.end(), [this](size_t a, size_t b) { return comes_before(a, b); });
    while (held_bytes_ > max_bytes_ && with_text_.size() > 1) {
      const size_t last = with_text_.back();
      with_text_.pop_back();
      held_bytes_ -= entries_[last].size;
      std::string().swap(source_.documents[last].text);
      entries_[last].has_text = false;
    }
  }

  // Keeps documents in the order of their ranks while they fit; where every one is larger than the cap the first is
  // cut.
  void cap() {
    std::vector<size_t> order(entries_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [this](size_t a, size_t b) { return comes_before(a, b); });
    const bool fits =
        std::any_of(entries_.begin(), entries_.end(), [this](const Entry& e) { return e.size <= max_bytes_; });
    if (!fits && !order.empty()) {
      cut_text(source_.documents[order[0]], max_bytes_);
      entries_[order[0]].size = source_.documents[order[0]].bytes();
    }
    std::vector<Document> kept;
    std::map<std::string, size_t> forgotten;  // kept, but the text is to be read again
    std::set<std::string> files;
    int64_t total = 0;
    for (size_t i : order) {
      if (entries_[i].size == 0 || total + entries_[i].size > max_bytes_) {
        leave_out(source_.documents[i].name(), "beyond max_bytes");
        continue;
      }
      total += entries_[i].size;
      if (!entries_[i].has_text) {
        forgotten[source_.documents[i].name()] = kept.size();
        files.insert(source_.documents[i].path);
      }
      kept.push_back(std::move(source_.documents[i]));
    }
    size_t read_again = 0;
    for (const std::string& path : files) {
      FileFacts facts;
      const auto restore = [&](Document document) {
        const auto found = forgotten.find(document.name());
        if (found == forgotten.end()) return;
        strip(document);
        kept[found->second] = std::move(document);
        ++read_again;
      };
      read_file(path, facts, restore, [](const std::string&, const std::string&) {});  // counted the first time
      if (facts.sha256 != source_.files.at(path).sha256) {
        throw Error(ExitCode::data, str(path, " has changed while it was read; start again when it is at rest"));
      }
    }
    ENSURE(read_again == forgotten.size(), read_again, " texts were read again, not ", forgotten.size());
    source_.documents = std::move(kept);
  }

  void leave_out_unlike() {
    std::vector<const Document*> documents;
    for (const Document& document : source_.documents) documents.push_back(&document);
    std::vector<Document> kept;
    std::set<size_t> unlike;
    for (const UnlikeDocument& found : find_unlike(documents)) unlike.insert(found.document);
    for (size_t d = 0; d < documents.size(); ++d) {
      if (unlike.contains(d)) {
        leave_out(documents[d]->name(), "unlike its source (filters.unlike_source)");
      } else {
        kept.push_back(std::move(source_.documents[d]));
      }
    }
    source_.documents = std::move(kept);
  }

  [[noreturn]] void refuse() const {
    std::string reasons;
    for (const auto& [reason, count] : source_.left_out)
      reasons += str(reasons.empty() ? "" : ", ", count, " ", reason,
                     count == 1 ? " (" : " (the first: ", source_.left_out_names.at(reason)[0], ")");
    throw Error(ExitCode::data, str("source \"", config_.name,
                                    "\" has no document left: ", reasons.empty() ? "its files hold none" : reasons,
                                    "; change data.filters or the source's files"));
  }

  const SourceConfig& config_;
  const FilterConfig& filters_;
  const std::string base_;
  const uint64_t rank_key_;
  const int64_t max_bytes_;
  SeenTexts& seen_;
  TextKeeper& keeper_;
  const BadRecords bad_records_;
  SourceDocuments source_;
  std::vector<Entry> entries_;     // of all documents so far, where there is a cap
  std::vector<size_t> with_text_;  // those whose text is held
  int64_t held_bytes_ = 0;
};

}  // namespace

SourceDocuments read_source(const SourceConfig& config, const FilterConfig& filters, const std::string& base_directory,
                            uint64_t seed, SeenTexts& seen, TextKeeper& keeper, BadRecords bad_records) {
  return SourceReader(config, filters, base_directory, seed, seen, keeper, bad_records).read();
}

}  // namespace engine::data
