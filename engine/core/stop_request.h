// A wish to end the process, as a signal leaves it. Loops that may take long look for it between pieces of work.
#pragma once

namespace engine {

// From now on SIGINT, SIGTERM and SIGUSR1 are such a wish; a second one ends the process at once with 128 + signal.
void catch_stop_signals();

bool stop_requested();

// For loops of one rank that have nothing to save: throws Error(stopped).
void throw_if_stop_requested();

}  // namespace engine
