// The emulated device finds what it is there to find: one mistake per case, and nothing in correct code.
#include "tests/emulation/emulation.h"

#include <cublas_v2.h>
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>

#include "tests/emulation/block.h"
#include "tests/emulation/planted_faults.h"

namespace {

using emulation::Streams;
using emulation::Threads;

bool is_checked() {
  return emulation::observer != nullptr;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::string joined(const std::vector<std::string>& faults) {
  std::string text;
  for (const std::string& fault : faults) text += fault + "\n";
  return text;
}

struct Found {
  bool differs = false;  // between the schedules, or from what is right
  std::string faults;
};

Found run_kernel(const std::string& name) {
  Found found;
  std::vector<float> first;
  for (Threads threads : {Threads::forward, Threads::reverse, Threads::shuffled}) {
    emulation::set({.threads = threads, .streams = Streams::late, .seed = 7});
    const std::vector<float> result = planted::run_kernel(name);
    if (first.empty()) first = result;
    found.differs = found.differs || !same_bits(result, first);
    found.faults += joined(emulation::take_faults());
  }
  return found;
}

// What each build must notice: `plain` through different bits or a fault, `checked` through a fault with this text.
struct Planted {
  const char* name;
  bool plain;
  const char* checked;
};

}  // namespace

TEST_CASE("emulation: a correct kernel gives the same bits under every schedule, without a fault") {
  const Found found = run_kernel("correct");
  CHECK_FALSE(found.differs);
  CHECK(found.faults == "");
}

TEST_CASE("emulation: mistakes in kernels are found") {
  const Planted kPlanted[] = {
      {"missing barrier", true, "race: read after write in shared memory"},
      {"missing second barrier", true, "race: write after read in shared memory"},
      {"missing syncwarp", true, "race: read after write in shared memory"},
      {"divergent barrier", true, "a thread has ended while others wait at __syncthreads"},
      {"early exit", true, "a thread has ended while others wait at __syncthreads"},
      {"absent lanes", true, "threads wait for threads that never come"},
      {"lane outside of the mask", true, "reads lane 20, which does not take part"},
      {"race in a block", true, "race: read after write in shared memory"},
      {"race between blocks", true, "race: read after write in device memory"},
      {"order of atomics", true, ""},
      {"index off by one", false, "write outside of any allocation in device memory"},
      {"shared index off by one", false, "write outside of any allocation in shared memory"},
      {"never written", false, "read of memory that was never written in shared memory"},
      {"host pointer", true, "a kernel argument points to host memory"},
  };
  for (const Planted& planted : kPlanted) {
    INFO(planted.name);
    const Found found = run_kernel(planted.name);
    INFO(found.faults);
    if (planted.plain) CHECK((found.differs || !found.faults.empty()));
    if (!is_checked() || *planted.checked == '\0') continue;
    CHECK(found.faults.find(planted.checked) != std::string::npos);
    if (found.faults.find("memory") != std::string::npos && found.faults.find("host") == std::string::npos) {
      CHECK(found.faults.find("planted_faults.cu:") != std::string::npos);  // with file and line
    }
  }
}

TEST_CASE("emulation: mistakes between streams are found") {
  emulation::set({.threads = Threads::forward, .streams = Streams::immediate});
  const std::vector<float> expected = planted::run_streams("none");
  CHECK(emulation::take_faults().empty());
  const struct {
    const char* name;
    bool device;  // between streams, so that the checker sees it
  } kMistakes[] = {{"none", false},
                   {"missing stream wait", true},
                   {"event recorded too early", true},
                   {"overwritten while read", true},
                   {"buffer reused before its copy", false},
                   {"read before the synchronisation", false},
                   {"other stream synchronised", false}};
  for (const auto& mistake : kMistakes) {
    INFO(mistake.name);
    const bool correct = mistake.name == std::string("none");
    int wrong = 0;
    std::string faults;
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      emulation::set({.streams = seed == 1 ? Streams::late : Streams::shuffled, .seed = seed});
      wrong += same_bits(planted::run_streams(mistake.name), expected) ? 0 : 1;
      faults += joined(emulation::take_faults());
    }
    INFO(faults);
    CHECK((wrong > 0) == !correct);
    if (is_checked()) CHECK((faults.find("race between streams") != std::string::npos) == mistake.device);
    if (!is_checked()) CHECK(faults == "");
  }
}

TEST_CASE("emulation: what a grouped product is given is checked") {
  emulation::set({});
  cudaStream_t stream = nullptr;
  char* memory = nullptr;
  cublasHandle_t handle = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  REQUIRE(cudaMalloc(reinterpret_cast<void**>(&memory), 4096) == cudaSuccess);
  REQUIRE(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS);
  cudaMemsetAsync(memory, 0, 4096, stream);
  // two products of 2 x 2 matrices; the lists of pointers lie behind the workspace
  struct Given {
    std::vector<void*> results;
    int k = 2, size = 1;
    bool workspace = true, lists_on_device = true;
    cudaDataType type = CUDA_R_32F, result_type = CUDA_R_32F;
  };
  const auto faults_of = [&](const Given& given) {
    void *operands[] = {memory + 1024, memory + 1024}, **lists = reinterpret_cast<void**>(memory + 512);
    cudaMemcpyAsync(lists, operands, sizeof operands, cudaMemcpyHostToDevice, stream);
    cudaMemcpyAsync(lists + 2, given.results.data(), 16, cudaMemcpyHostToDevice, stream);
    cublasSetStream(handle, stream);
    if (given.workspace) cublasSetWorkspace(handle, memory, 512);
    const cublasOperation_t operations[] = {CUBLAS_OP_N, CUBLAS_OP_T};
    const int twos[] = {2, 2}, depths[] = {2, given.k}, sizes[] = {1, given.size};
    const float ones[] = {1, 1}, zeros[] = {0, 0};
    void** from = given.lists_on_device ? lists : operands;
    const cublasStatus_t status = cublasGemmGroupedBatchedEx(
        handle, operations, operations, twos, twos, depths, ones, from, given.type, twos, from, given.type, twos, zeros,
        lists + 2, given.result_type, twos, 2, sizes, CUBLAS_COMPUTE_32F);
    cudaStreamSynchronize(stream);
    const std::string faults = joined(emulation::take_faults());
    return status == CUBLAS_STATUS_SUCCESS ? faults : "status " + std::to_string(status) + "\n" + faults;
  };
  const std::vector<void*> apart = {memory + 2048, memory + 3072};
  float on_host[4] = {};
  CHECK(faults_of({apart}) == "");
  CHECK(faults_of({.results = apart, .k = 0}) == "status 7\n");
  CHECK(faults_of({.results = apart, .size = 0}) == "status 7\n");
  CHECK(faults_of({.results = apart, .type = CUDA_R_16BF}) == "status 15\n");
  CHECK(faults_of({.results = apart, .lists_on_device = false}).find("lists of pointers are not") != std::string::npos);
  CHECK(faults_of({.results = apart, .workspace = false}).find("would allocate") != std::string::npos);
  CHECK(faults_of({{memory + 2048, on_host}}).find("a matrix is not in device memory") != std::string::npos);
  CHECK(faults_of({{memory + 2048, memory + 2056}}).find("results overlap") != std::string::npos);
  CHECK(faults_of({.results = {memory + 2048, memory + 2066}, .type = CUDA_R_16BF, .result_type = CUDA_R_16BF})
            .find("not aligned") != std::string::npos);
  cudaFree(memory);
  cudaStreamDestroy(stream);
}

TEST_CASE("emulation: host code that uses a device pointer ends with a message") {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    std::signal(SIGSEGV, SIG_DFL);  // not the test runner's
    _exit(std::isnan(planted::read_device_memory()) ? 3 : 4);
  }
  close(ends[1]);
  char text[256] = {};
  [[maybe_unused]] const ssize_t length = read(ends[0], text, sizeof text - 1);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFSIGNALED(status));
  CHECK(std::string(text).find("host code uses a pointer to device memory") != std::string::npos);
}
