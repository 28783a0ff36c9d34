#include "comm/judge.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "engine/core/error.h"

namespace comm {

using engine::str;

namespace {

constexpr size_t kStepsTimed = 9;
constexpr const char* kAdvice = "; start again, and the run goes on from its last checkpoint";

template <size_t N>
void copy_text(char (&to)[N], const char* from) {
  std::strncpy(to, from == nullptr ? "" : from, N - 1);
  to[N - 1] = '\0';
}

// "in step 12, experts forward, layer 3"
std::string place(const Sighting& at) {
  std::string text = at.step == 0 ? str("before the first step, ", at.phase) : str("in step ", at.step, ", ", at.phase);
  if (!at.in_step && at.step > 0) text = str("after step ", at.step, ", ", at.phase);
  if (at.layer >= 0) text += str(", layer ", at.layer);
  return text;
}

}  // namespace

Sighting Sighting::of(const engine::Activity& activity) {
  Sighting now;
  now.progress = activity.progress.load(std::memory_order_acquire);
  now.step = activity.step;
  now.layer = activity.layer;
  now.number = activity.number;
  now.in_step = activity.in_step;
  copy_text(now.phase, activity.phase);
  copy_text(now.collective, activity.collective);
  copy_text(now.group, activity.group);
  return now;
}

Judge::Judge(std::vector<std::string> hosts, const WatchLimits& limits, double now) : limits_(limits), asked_(now) {
  for (std::string& host : hosts) {
    Rank& rank = ranks_.emplace_back();
    rank.host = std::move(host);
    rank.seen = rank.progressed = now;
  }
}

void Judge::saw(int rank, const Sighting& sighting, double now) {
  Rank& r = ranks_[static_cast<size_t>(rank)];
  r.seen = now;
  if (sighting.progress != r.last.progress) r.progressed = now;
  r.last = sighting;
  if (rank == 0) time_step(sighting.step, now);
}

void Judge::time_step(int64_t step, double now) {
  if (step > step_ && step_ > 0) {
    if (step_seconds_.size() == kStepsTimed) step_seconds_.erase(step_seconds_.begin());
    step_seconds_.push_back((now - step_begun_) / static_cast<double>(step - step_));
  }
  if (step > step_) step_ = step, step_begun_ = now;
}

double Judge::limit() const {
  if (step_seconds_.empty()) return limits_.seconds;
  std::vector<double> sorted = step_seconds_;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<int64_t>(sorted.size() / 2), sorted.end());
  return std::max(limits_.seconds, limits_.step_factor * sorted[sorted.size() / 2]);
}

std::string Judge::who(size_t rank) const {
  return str("rank ", rank, " on ", ranks_[rank].host);
}

// "; ranks 0, 1 waited in all_to_all_v number 118 of ep for layer 3"
std::string Judge::waiting(size_t but) const {
  std::map<std::string, std::string> ranks;  // by what they wait in
  for (size_t r = 0; r < ranks_.size(); ++r) {
    const Rank& rank = ranks_[r];
    if (r == but || !rank.last.waits()) continue;
    std::string where = str(rank.last.collective, " number ", rank.last.number, " of ", rank.last.group);
    if (rank.last.layer >= 0) where += str(" for layer ", rank.last.layer);
    std::string& list = ranks[where];
    list += str(list.empty() ? "" : ", ", r);
  }
  std::string text;
  for (const auto& [where, list] : ranks) {
    text += str("; ", list.find(',') == std::string::npos ? "rank " : "ranks ", list, " waited in ", where);
  }
  return text;
}

std::string Judge::all_wait(double now) const {
  const double most = limit();
  for (const Rank& rank : ranks_) {
    if (!rank.last.waits() || now - rank.progressed <= most) return "";
  }
  return str("the ranks wait for each other since ", static_cast<int64_t>(most), " seconds ", place(ranks_[0].last),
             waiting(ranks_.size()), "; this is a bug of ours, please report it");
}

std::string Judge::verdict(double now) {
  if (now - asked_ > limits_.suspended) {
    for (Rank& rank : ranks_) rank.seen = rank.progressed = now;
    step_begun_ += now - asked_;
  }
  asked_ = now;
  const double most = limit();
  for (size_t r = 0; r < ranks_.size(); ++r) {
    const Rank& rank = ranks_[r];
    if (rank.gone) return "";  // whoever leaves says why
    if (rank.dead) return str(who(r), " died ", place(rank.last), waiting(r), kAdvice);
  }
  for (size_t r = 0; r < ranks_.size(); ++r) {
    const Rank& rank = ranks_[r];
    if (now - rank.seen > most) {
      return str(who(r), " gives no sign of life since ", static_cast<int64_t>(now - rank.seen),
                 " seconds; it was last ", place(rank.last), waiting(r), kAdvice);
    }
    const bool stuck = rank.last.in_step && !rank.last.waits();
    if (stuck && now - rank.progressed > (step_seconds_.empty() ? std::max(most, limits_.first_step) : most)) {
      return str(who(r), " hangs since ", static_cast<int64_t>(now - rank.progressed), " seconds ", place(rank.last),
                 waiting(r), kAdvice);
    }
  }
  return ranks_.size() > 1 ? all_wait(now) : "";
}

}  // namespace comm
