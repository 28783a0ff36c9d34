// switchyard bench checkpoint CONFIG: what a save costs training, and how near writing and reading are to the disk.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "comm/thread_group.h"
#include "engine/checkpoint/file_system.h"
#include "engine/checkpoint/saver.h"
#include "engine/config/check.h"
#include "engine/config/reader.h"
#include "engine/config/units.h"
#include "engine/core/error.h"
#include "engine/core/thread_pool.h"
#include "engine/train/trainer.h"
#include "engine/train/trainer_checkpoint.h"
#include "tools/bench.h"

namespace tools {
namespace {

using namespace engine;

struct Options : BenchedConfig {
  std::string directory = ".";
  int64_t every = 10, repeat = 7;
  bool json = false;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A directory that goes when the benchmark ends.
class Scratch {
 public:
  explicit Scratch(const std::string& parent) : path_(parent + "/switchyard-bench-XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) {
      throw Error(ExitCode::environment, str("cannot make a directory in ", parent, ": ", std::strerror(errno)));
    }
  }
  ~Scratch() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// So that what is read next comes from the disk.
void drop_from_cache(const std::string& directory) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    const int file = open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) continue;
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    close(file);
  }
}

struct Measured {
  int64_t bytes = 0;                                          // of this rank's state
  double copy = 0, stall = 0;                                 // seconds
  double plain = 0, saving = 0;                               // `every` steps without and with a save
  double write = 0, disk_write = 0, read = 0, disk_read = 0;  // seconds for the state of all ranks
  int64_t all_bytes = 0;
};

class Benchmark {
 public:
  Benchmark(const Config& config, const Options& options, comm::ParallelGroups& groups, const std::string& directory)
      : options_(options), directory_(directory), world_(*groups.world), trainer_(config, groups), saver_(groups) {
    trainer_.begin_digest();
  }

  Measured measure() {
    Measured m;
    saver_.prepare(request());
    m.bytes = m.all_bytes = saver_.snapshot_bytes();
    world_.all_reduce_sum(Tensor(&m.all_bytes, DType::i64, {1})).wait();
    from_ = Buffer(m.bytes), to_ = Buffer(m.bytes);
    std::memset(from_.data(), 1, static_cast<size_t>(m.bytes));
    steps(3, false);
    save();  // the first one touches the memory of the copy
    copy();
    std::vector<double> copies, stalls, plain, saving, writes, disk_writes, reads, disk_reads;
    for (int64_t i = 0; i < options_.repeat; ++i) {  // in turns, so that what else the machine does falls on all alike
      plain.push_back(steps(options_.every, false));
      copies.push_back(copy());
      saving.push_back(steps(options_.every, true));
      stalls.push_back(stall_);
      writes.push_back(save());
      disk_writes.push_back(write_plainly(m.bytes));
      reads.push_back(load());
      disk_reads.push_back(read_plainly(m.bytes));
    }
    m.copy = median(copies), m.stall = median(stalls), m.plain = median(plain), m.saving = median(saving);
    m.write = median(writes), m.disk_write = median(disk_writes);
    m.read = median(reads), m.disk_read = median(disk_reads);
    return m;
  }

 private:
  checkpoint::SaveRequest request() {
    checkpoint::SaveRequest request = train::save_request(trainer_);
    request.state.step = ++saves_;  // the state may be the same one
    request.state.run = "bench";
    request.keep_last = 1;
    return request;
  }

  // What every save ends with; on all ranks.
  void check(const std::optional<checkpoint::Saver::Outcome>& outcome) {
    if (outcome && !outcome->durable()) throw Error(ExitCode::environment, outcome->error);
    if (outcome) newest_ = outcome->path;
  }

  // `count` steps; with a save, it begins before the first and the next one could begin after the last.
  double steps(int64_t count, bool with_save) {
    world_.barrier();
    const double start = monotonic_seconds();
    if (with_save) {
      saver_.begin(directory_, request());
      stall_ = monotonic_seconds() - start;
    }
    const Config& config = trainer_.config();
    for (int64_t i = 0; i < count; ++i) {
      trainer_.train_step(trainer_.step() * config.sequences_per_step(), [&](int64_t sample, int32_t* tokens) {
        for (int64_t t = 0; t <= config.train.seq_len; ++t)
          tokens[t] = static_cast<int32_t>((sample * 31 + t * 7) % std::min<int64_t>(256, config.model.vocabulary()));
      });
    }
    check(saver_.wait());
    return monotonic_seconds() - start;
  }

  double copy() {
    world_.barrier();
    const double start = monotonic_seconds();
    parallel_ranges(from_.bytes(), int64_t{1} << 18, [&](int64_t begin, int64_t end) {
      std::memcpy(to_.data() + begin, from_.data() + begin, static_cast<size_t>(end - begin));
    });
    return monotonic_seconds() - start;
  }

  double save() {
    world_.barrier();
    const double start = monotonic_seconds();
    saver_.begin(directory_, request());
    check(saver_.wait());
    return monotonic_seconds() - start;
  }

  double load() {
    if (world_.rank() == 0) drop_from_cache(directory_);
    world_.barrier();
    const double start = monotonic_seconds();
    train::restore_trainer(trainer_, newest_);
    world_.barrier();
    return monotonic_seconds() - start;
  }

  std::string plain_file() const { return str("plain-", world_.rank()); }

  double write_plainly(int64_t bytes) {
    const checkpoint::Directory inside = checkpoint::Directory::open(directory_ + "/..");
    inside.remove_file(plain_file());
    world_.barrier();
    const double start = monotonic_seconds();
    const std::string path = directory_ + "/../" + plain_file();
    const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    for (int64_t at = 0; file >= 0 && at < bytes;) {
      const ssize_t count = write(file, from_.data() + at, static_cast<size_t>(std::min<int64_t>(bytes - at, 1 << 20)));
      if (count <= 0) break;
      at += count;
    }
    if (file < 0 || fdatasync(file) != 0 || close(file) != 0) {
      throw Error(ExitCode::environment, str("cannot write ", path, ": ", std::strerror(errno)));
    }
    world_.barrier();
    return monotonic_seconds() - start;
  }

  double read_plainly(int64_t bytes) {
    if (world_.rank() == 0) drop_from_cache(directory_ + "/..");
    world_.barrier();
    const double start = monotonic_seconds();
    const checkpoint::ExistingFile file(directory_ + "/..", plain_file());
    for (int64_t at = 0; at < bytes; at += 1 << 20)
      file.read(to_.data() + at, at, std::min<int64_t>(bytes - at, 1 << 20));
    world_.barrier();
    return monotonic_seconds() - start;
  }

  Options options_;
  std::string directory_, newest_;
  comm::Group& world_;
  train::Trainer trainer_;
  checkpoint::Saver saver_;
  Buffer from_, to_;
  int64_t saves_ = 0;
  double stall_ = 0;
};

double rate(int64_t bytes, double seconds) {
  return static_cast<double>(bytes) / seconds * 1e-6;
}

int run(const Options& options) {
  const Config config = load_config(options.config, options.sets);
  const int64_t ep_size = check_ranks(config, options.ranks);
  const int threads = options.threads > 0 ? options.threads : std::max(1, available_processors() / options.ranks);
  const Scratch scratch(options.directory);
  Measured m;
  comm::run_thread_ranks(options.ranks, threads, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep_size);
    Measured mine = Benchmark(config, options, groups, scratch.path() + "/checkpoints").measure();
    if (groups.world->rank() == 0) m = mine;
  });
  if (options.json) {
    const nlohmann::ordered_json line = {{"state_bytes_of_rank", m.bytes},
                                         {"state_bytes", m.all_bytes},
                                         {"stall_seconds", m.stall},
                                         {"memcpy_seconds", m.copy},
                                         {"stall_over_memcpy", m.stall / m.copy},
                                         {"steps", options.every},
                                         {"steps_seconds", m.plain},
                                         {"steps_with_save_seconds", m.saving},
                                         {"cost", m.saving / m.plain - 1},
                                         {"write_mb_per_second", rate(m.all_bytes, m.write)},
                                         {"disk_write_mb_per_second", rate(m.all_bytes, m.disk_write)},
                                         {"read_mb_per_second", rate(m.all_bytes, m.read)},
                                         {"disk_read_mb_per_second", rate(m.all_bytes, m.disk_read)},
                                         {"ranks", options.ranks},
                                         {"threads", threads}};
    std::printf("%s\n", line.dump().c_str());
    return 0;
  }
  std::printf("%s: a checkpoint of %s on %d ranks x %d threads (medians of %lld)\n", options.config.c_str(),
              print_bytes(m.all_bytes).c_str(), options.ranks, threads, static_cast<long long>(options.repeat));
  std::printf("stall    training waits %.2f ms for a save to begin = %.2f x a memcpy of the rank's %s\n", m.stall * 1e3,
              m.stall / m.copy, print_bytes(m.bytes).c_str());
  std::printf("cost     %lld steps take %.1f ms, with a save %.1f ms: %+.1f %%\n",
              static_cast<long long>(options.every), m.plain * 1e3, m.saving * 1e3, 100 * (m.saving / m.plain - 1));
  std::printf("write    %.0f MB/s = %.2f of the disk's %.0f MB/s\n", rate(m.all_bytes, m.write), m.disk_write / m.write,
              rate(m.all_bytes, m.disk_write));
  std::printf("read     %.0f MB/s = %.2f of the disk's %.0f MB/s\n", rate(m.all_bytes, m.read), m.disk_read / m.read,
              rate(m.all_bytes, m.disk_read));
  return 0;
}

}  // namespace

void add_bench_checkpoint(CommandLine& bench) {
  auto options = std::make_shared<Options>();
  CommandLine command = bench.add_subcommand("checkpoint", "what a save costs, beside memcpy and the disk");
  add_benched_config(command, *options);
  command.add_option("--every", options->every, "steps between saves (default: 10)").positive();
  command.add_option("--repeat", options->repeat, "measurements of each (default: 7)").positive();
  command.add_option("--dir", options->directory, "where to write; removed afterwards (default: here)");
  command.add_flag("--json", options->json, "one JSON object on stdout");
  command.footer("Example: switchyard bench checkpoint configs/bench_small_cpu.json");
  command.runs([options] { return run(*options); });
}

}  // namespace tools
