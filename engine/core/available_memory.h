// How much memory there is to take.
#pragma once

#include <cstdint>

namespace engine {

// What may still be allocated: the machine's available memory within the control group's limit; -1 if unknown.
int64_t available_memory();

// Memory of this process that is in use now, and that was at most; 0 where the system does not tell.
int64_t resident_memory();
int64_t peak_resident_memory();

}  // namespace engine
