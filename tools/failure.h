// How the program says what went wrong.
#pragma once

#include <exception>
#include <string>

namespace tools {

// Prints the failure as the last line on stderr, after `who` ("rank 3 on host: "), and returns its exit code.
int report_failure(const std::exception_ptr& failure, const std::string& who = "");

}  // namespace tools
