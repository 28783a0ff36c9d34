#include "tests/emulation/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulation {

void context_create(Context& context, size_t stack_bytes, unsigned number) {
  constexpr size_t kGuard = 4096;
  void* memory =
      mmap(nullptr, stack_bytes + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuard, PROT_NONE) != 0) {
    std::perror("emulation: memory for the stack of a fiber");
    std::abort();
  }
  context.stack = static_cast<char*>(memory) + kGuard;
  context.size = stack_bytes - number % 32 * 192;
}

#if defined(__x86_64__)

// Pushes the registers a call preserves, changes stacks, pops them. Ends in a jump: the return predictor knows
// nothing of other stacks, and a mispredicted return doubles the time.
extern "C" void emulation_switch(void** save, void* load);
asm(R"(
.text
.globl emulation_switch
.type emulation_switch,@function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.size emulation_switch,.-emulation_switch
)");

void context_start(Context& context, void (*entry)()) {
  auto* top = reinterpret_cast<uint64_t*>(context.stack + context.size);
  *--top = 0;  // entry's return address: ends back traces, and aligns the stack as a call would
  *--top = reinterpret_cast<uint64_t>(entry);
  for (int i = 0; i < 6; ++i) *--top = 0;
  context.saved = top;
}

void context_switch(Context& from, Context& to) {
  emulation_switch(&from.saved, to.saved);
}

#else

void context_start(Context& context, void (*entry)()) {
  if (context.saved == nullptr) context.saved = new ucontext_t;
  auto* state = static_cast<ucontext_t*>(context.saved);
  getcontext(state);
  state->uc_stack.ss_sp = context.stack;
  state->uc_stack.ss_size = context.size;
  state->uc_link = nullptr;
  makecontext(state, entry, 0);
}

void context_switch(Context& from, Context& to) {
  if (from.saved == nullptr) from.saved = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(from.saved), static_cast<ucontext_t*>(to.saved));
}

#endif

}  // namespace emulation
