#include "tools/launch.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

#include "comm/nccl_host_group.h"
#include "comm/thread_group.h"
#include "comm/world.h"
#include "engine/core/error.h"
#include "engine/core/thread_pool.h"
#include "tools/failure.h"

namespace tools {

using engine::Error;
using engine::ExitCode;
using engine::str;

namespace {

int number_in_environment(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::atoi(text);
}

// Ranks that a launcher started this process as one of; 0: nobody did. MPICH's and Slurm's PMI and PMIx say it in
// different words.
int launched_ranks() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    if (const int ranks = number_in_environment(name); ranks > 0) return ranks;
  }
  return std::getenv("PMIX_RANK") != nullptr ? 1 : 0;
}

// Those of them on this host; 1 where that is not known.
int launched_ranks_here() {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"}) {
    if (const int ranks = number_in_environment(name); ranks > 0) return ranks;
  }
  return std::max(1, launched_ranks());
}

// Whether processes may read each other's memory, as Open MPI's fastest way between ranks of one host does. Containers
// often forbid it, and every message would then be announced as failed.
bool may_read_other_processes() {
  const int secret = 12345;
  int seen = 0;
  const pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) {
    pause();
    _exit(0);
  }
  iovec here{&seen, sizeof(seen)}, there{const_cast<int*>(&secret), sizeof(secret)};
  const bool read = process_vm_readv(child, &here, 1, &there, 1, 0) == sizeof(secret) && seen == secret;
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return read;
}

std::string output_of(const char* command) {
  std::string text;
  FILE* pipe = popen(command, "r");
  if (pipe == nullptr) return text;
  std::array<char, 256> part{};
  while (std::fgets(part.data(), part.size(), pipe) != nullptr) text += part.data();
  pclose(pipe);
  return text;
}

struct Launch {
  std::vector<std::pair<std::string, std::string>> environment;
  std::vector<std::string> arguments;
  bool allows_root = false;  // Open MPI refuses it unless told
};

// This command line, from the path of the program on.
std::vector<std::string> own_command_line() {
  std::array<char, 4096> path{};
  if (readlink("/proc/self/exe", path.data(), path.size() - 1) <= 0)
    throw Error(ExitCode::environment, "cannot find this program's own path in /proc/self/exe");
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
  words.erase(std::remove(words.begin(), words.end(), "--print-launch"), words.end());
  if (!words.empty()) words[0] = path.data();
  return words;
}

Launch plan_launch(const RankPlan& plan) {
  const std::string version = output_of("mpirun --version 2>/dev/null");
  if (version.empty()) {
    throw Error(ExitCode::environment,
                "mpirun is not installed; install openmpi-bin, or use --transport threads on one machine");
  }
  Launch launch{{}, {"mpirun", "-n", std::to_string(plan.ranks)}};
  auto add = [&](const char* name, const std::string& value) { launch.environment.emplace_back(name, value); };
  const bool crowded = plan.ranks > engine::available_processors();
  if (version.find("Open MPI") != std::string::npos) {
    if (crowded) launch.arguments.push_back("--oversubscribe");
    for (const char* word : {"--bind-to", "none", "--quiet"}) launch.arguments.emplace_back(word);
    if (geteuid() == 0) {
      add("OMPI_ALLOW_RUN_AS_ROOT", "1");
      add("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
      launch.allows_root = true;
    }
    if (crowded) add("OMPI_MCA_mpi_yield_when_idle", "1");
    if (!may_read_other_processes()) add("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
  } else {
    for (const char* word : {"-bind-to", "none"}) launch.arguments.emplace_back(word);
  }
#if defined(__SANITIZE_ADDRESS__)
  const char* sanitizer = std::getenv("ASAN_OPTIONS");  // MPI leaves memory behind at exit
  add("ASAN_OPTIONS", str(sanitizer == nullptr ? "" : str(sanitizer, ":"), "detect_leaks=0"));
#endif
  for (const std::string& word : own_command_line()) launch.arguments.push_back(word);
  return launch;
}

void print(const Launch& launch) {
  auto quoted = [](const std::string& word) {
    const bool plain = !word.empty() && word.find_first_not_of(
                                            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                            "0123456789_./:=+,@%-") == std::string::npos;
    if (plain) return word;
    std::ostringstream text;
    text << '\'';
    for (char c : word) c == '\'' ? text << "'\\''" : text << c;
    text << '\'';
    return text.str();
  };
  std::ostringstream line;
  for (const auto& [name, value] : launch.environment) line << name << '=' << quoted(value) << ' ';
  for (size_t i = 0; i < launch.arguments.size(); ++i) line << (i == 0 ? "" : " ") << quoted(launch.arguments[i]);
  std::printf("%s\n", line.str().c_str());
}

[[noreturn]] void become_mpirun(const Launch& launch, const sigset_t& signals) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);  // ends with its launcher
  setpgid(0, 0);                     // Ctrl-C goes to the launcher alone, which knows what to do
  sigprocmask(SIG_SETMASK, &signals, nullptr);
  for (const auto& [name, value] : launch.environment) setenv(name.c_str(), value.c_str(), 1);
  if (std::freopen("/dev/null", "r", stdin) == nullptr) {
    // ranks read nothing
  }
  std::vector<char*> words;
  for (const std::string& word : launch.arguments) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  execvp(words[0], words.data());
  std::fprintf(stderr, "error: cannot start mpirun: %s (exit %d)\n", std::strerror(errno),
               static_cast<int>(ExitCode::environment));
  _exit(static_cast<int>(ExitCode::environment));
}

// Passes signals on until mpirun ends; returns its exit code.
int wait_for(pid_t child, const sigset_t& watched) {
  int signals = 0, last = 0;
  for (;;) {
    const int number = sigwaitinfo(&watched, nullptr);
    if (number == SIGCHLD) {
      int status = 0;
      if (waitpid(child, &status, WNOHANG) != child) continue;
      if (signals > 1) return 128 + last;
      const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      return code >= 128 ? static_cast<int>(ExitCode::rank_lost) : code;  // a rank was ended by a signal
    }
    if (number < 0) continue;
    last = number;
    kill(child, ++signals == 1 ? SIGUSR1 : SIGTERM);
  }
}

}  // namespace

RankPlan plan_ranks(const RankOptions& options) {
  const int launched = launched_ranks();
  RankPlan plan{.ranks = std::max(1, options.ranks)};
  const bool processes = options.transport == "mpi" || options.transport == "nccl";
  if (launched > 0 && (launched > 1 || processes)) {
    if (options.transport == "threads") {
      throw Error(ExitCode::usage, str("a launcher has started ", launched,
                                       " processes, and with --transport threads each would be a run of its own; use "
                                       "--transport mpi, or start one process"));
    }
    plan.kind = RankPlan::Kind::join;
    plan.ranks = options.ranks;
    plan.threads =
        options.threads > 0 ? options.threads : std::max(1, engine::available_processors() / launched_ranks_here());
    return plan;
  }
  if (processes) plan.kind = RankPlan::Kind::start_mpirun;
  if (options.transport == "nccl" && !comm::mpi_is_built()) plan.kind = RankPlan::Kind::fork;
  plan.threads = options.threads > 0 ? options.threads : std::max(1, engine::available_processors() / plan.ranks);
  return plan;
}

int start_mpirun(const RankPlan& plan, bool only_print) {
  if (!comm::mpi_is_built()) comm::open_world();  // says what is missing
  Launch launch = plan_launch(plan);
  const bool has_threads = std::any_of(launch.arguments.begin(), launch.arguments.end(),
                                       [](const std::string& word) { return word.rfind("--threads", 0) == 0; });
  if (!has_threads) launch.arguments.insert(launch.arguments.end(), {"--threads", std::to_string(plan.threads)});
  if (only_print) return print(launch), 0;
  if (plan.ranks > engine::available_processors()) {
    std::fprintf(stderr,
                 "warning: %d ranks share %d processors and wait for each other's turns; fewer ranks are faster\n",
                 plan.ranks, engine::available_processors());
  }
  if (launch.allows_root) std::fprintf(stderr, "%-9s as root, which mpirun is told to allow\n", "mpirun");
  sigset_t watched, before;
  sigemptyset(&watched);
  for (int number : {SIGCHLD, SIGINT, SIGTERM, SIGUSR1}) sigaddset(&watched, number);
  sigprocmask(SIG_BLOCK, &watched, &before);
  const pid_t child = fork();
  if (child < 0) throw Error(ExitCode::environment, str("cannot start mpirun: ", std::strerror(errno)));
  if (child == 0) become_mpirun(launch, before);
  const int code = wait_for(child, watched);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  return code;
}

namespace {

using Body = std::function<int(std::unique_ptr<comm::Group>)>;

// The exit code of body(open()); a failure is reported and ends the process. `rank` is known before the world is open.
int be_rank(const RankPlan& plan, int rank, const std::function<std::unique_ptr<comm::Group>()>& open,
            const Body& body) {
  try {
    engine::ThreadPool pool(plan.threads);
    pool.make_current();
    std::unique_ptr<comm::Group> world = open();
    rank = world->rank();
    world->set_name("world");
    return body(std::move(world));
  } catch (...) {
    char host[64] = {};
    gethostname(host, sizeof(host) - 1);
    if (rank != 0) {  // what all ranks found is said by rank 0, whose end is theirs
      signal(SIGTERM, SIG_DFL);
      sleep(4);
    }
    const int code = report_failure(std::current_exception(), rank == 0 ? "" : str("rank ", rank, " on ", host, ": "));
    comm::abort_world(code);  // which does not wait for the others, as the end of MPI would
  }
}

std::unique_ptr<comm::Group> open_launched_world() {
  std::unique_ptr<comm::Group> world = comm::open_world();
  if (world->size() == 1 && launched_ranks() > 1) {
    throw Error(ExitCode::environment,
                str("a launcher has started ", launched_ranks(), " ranks but ", comm::mpi_library(),
                    ", which this program was built with, sees only this one; use its own mpirun, or with Slurm "
                    "srun --mpi=pmix"));
  }
  return world;
}

}  // namespace

int join_mpi(const RankPlan& plan, const Body& body) {
  const int rank = number_in_environment("OMPI_COMM_WORLD_RANK") + number_in_environment("PMI_RANK");
  return be_rank(plan, rank, open_launched_world, body);
}

int fork_ranks(const RankPlan& plan, const Body& body) {
  return comm::run_forked_ranks(plan.ranks, [&](std::unique_ptr<comm::Group> world) {
    const int rank = world->rank();
    return be_rank(
        plan, rank, [&] { return std::move(world); }, body);
  });
}

int run_ranks(const RankOptions& options, const Body& body) {
  const RankPlan plan = plan_ranks(options);
  switch (plan.kind) {
    case RankPlan::Kind::start_mpirun:
      return start_mpirun(plan, options.print_launch);
    case RankPlan::Kind::fork:
      return fork_ranks(plan, body);
    case RankPlan::Kind::join:
      return join_mpi(plan, body);
    case RankPlan::Kind::threads:
      break;
  }
  comm::run_thread_ranks(plan.ranks, plan.threads, body);
  return 0;
}

}  // namespace tools
