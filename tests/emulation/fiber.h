// A stack of its own and the means to switch to it: by hand on x86-64 (6 ns), by ucontext elsewhere.
#pragma once

#include <cstddef>

namespace emulation {

struct Context {
  void* saved = nullptr;  // stack pointer, or ucontext_t*
  char* stack = nullptr;  // lowest address above the guard page; null: the thread's own stack
  size_t size = 0;
};

// Gives the context a stack; `number` spreads the hot ends of many stacks over the cache sets.
void context_create(Context& context, size_t stack_bytes, unsigned number);
// Makes entry() the next thing that runs on the context. It must never return.
void context_start(Context& context, void (*entry)());
void context_switch(Context& from, Context& to);

}  // namespace emulation
