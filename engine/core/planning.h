// Whether memory is only counted (Buffer::Planning): then new buffers have an address that nothing may be written to.
#pragma once

namespace engine {

// Of the calling thread.
bool is_planning();

}  // namespace engine
