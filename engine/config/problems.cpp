#include "engine/config/problems.h"

#include <algorithm>
#include <sstream>
#include <tuple>

namespace engine {
namespace {

// Of a longer line the part around the problem is shown.
constexpr int64_t kLongestBefore = 100;
constexpr size_t kLongestLine = 160;

std::string line_of(const std::string& text, int64_t number) {
  std::istringstream lines(text);
  std::string line;
  for (int64_t i = 0; i < number && std::getline(lines, line); ++i) {
  }
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return line;
}

// Levenshtein distance.
size_t distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

void Problems::add(JsonPosition position, const std::string& origin, const std::string& message,
                   const std::string& hint) {
  problems_.push_back({position, origin, message, hint});
}

std::string Problems::print() const {
  std::ostringstream out;
  std::vector<Problem> ordered = problems_;  // by place in the file, then those without one
  std::stable_sort(ordered.begin(), ordered.end(), [](const Problem& a, const Problem& b) {
    const auto place = [](const Problem& p) {
      return std::tuple(!p.origin.empty(), p.position.line, p.position.column);
    };
    return place(a) < place(b);
  });
  for (const Problem& problem : ordered) {
    if (!problem.origin.empty()) {
      out << problem.origin;
    } else {
      out << file_;
      if (problem.position.line > 0) out << ':' << problem.position.line << ':' << problem.position.column;
    }
    out << "  error: " << problem.message << '\n';
    if (!problem.origin.empty() || problem.position.line == 0) {
      if (!problem.hint.empty()) out << "    " << problem.hint << '\n';
      continue;
    }
    std::string line = line_of(text_, problem.position.line);
    const std::string number = std::to_string(problem.position.line);
    int64_t column = problem.position.column;
    const int64_t skipped = std::max<int64_t>(0, column - kLongestBefore);
    line = line.substr(std::min(static_cast<size_t>(skipped), line.size()), kLongestLine);
    column -= skipped;
    out << "  " << number << " | " << line << '\n';
    const int64_t room = std::max<int64_t>(1, static_cast<int64_t>(line.size()) - column + 1);
    out << std::string(number.size() + 4 + static_cast<size_t>(column), ' ')
        << std::string(static_cast<size_t>(std::min(problem.position.length, room)), '^');
    if (!problem.hint.empty()) out << ' ' << problem.hint;
    out << '\n';
  }
  out << problems_.size() << (problems_.size() == 1 ? " error" : " errors") << ", nothing was started";
  return out.str();
}

void Problems::raise() const {
  throw Error(ExitCode::usage, print());
}

std::string nearest(const std::string& word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t d = distance(word, candidate);
    if (d < best_distance) best_distance = d, best = candidate;
  }
  return best;
}

}  // namespace engine
