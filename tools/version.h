// Which program this is: its version and the state of the sources it was built from.
#pragma once

namespace tools {

extern const char* const kVersion;  // "0.1.0 (1a2b3c4d5e6f)"

}  // namespace tools
