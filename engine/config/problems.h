// Problems of a config, collected so that all are shown at once, in the form of a compiler's messages.
#pragma once

#include <string>
#include <vector>

#include "engine/config/json_reader.h"

namespace engine {

class Problems {
 public:
  // `text` is shown beside problems that have a position in it.
  Problems(std::string file, std::string text) : file_(std::move(file)), text_(std::move(text)) {}

  // `origin` ("--set ...") replaces the position where it is not empty.
  void add(JsonPosition position, const std::string& origin, const std::string& message, const std::string& hint = "");
  bool empty() const { return problems_.empty(); }
  // All problems and how many; throws them as one Error(usage).
  [[noreturn]] void raise() const;
  std::string print() const;

 private:
  struct Problem {
    JsonPosition position;
    std::string origin, message, hint;
  };
  std::string file_, text_;
  std::vector<Problem> problems_;
};

// The candidate most like `word`, or an empty string when none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace engine
