// switchyard bench moe: dispatch, experts and combine under eight kinds of load, each checked against an exact oracle.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "comm/thread_group.h"
#include "engine/core/device.h"
#include "engine/core/error.h"
#include "engine/core/growing_buffer.h"
#include "engine/core/mirror.h"
#include "engine/core/rng.h"
#include "engine/core/thread_pool.h"
#include "engine/core/transfer.h"
#include "moe/expert_placement.h"
#include "moe/experts.h"
#include "tools/bench.h"
#include "tools/device_option.h"
#include "tools/device_ranks.h"
#include "tools/launch.h"

namespace tools {
namespace {

using namespace engine;

struct Options {
  Ranks where;
  int ranks = 1;  // that there are
  int64_t experts = 16, slots = 2, hidden = 256, width = 512, tokens = 1024, steps = 10;
  std::string only;
  bool json = false;
};

struct Place {
  int64_t step, rank, token;
};
// Slot k of a token: an expert, different from those of its other slots.
using Choice = std::function<int64_t(const Options&, const Place&, int64_t k)>;

struct Workload {
  const char *name, *meaning;
  Choice choose;
  std::function<int64_t(const Options&, int64_t rank)> tokens;
};

int64_t random_below(const Place& p, uint64_t stream, int64_t limit) {
  const Philox4 bits = philox(derive_key(stream, "bench moe"), static_cast<uint64_t>(p.token),
                              static_cast<uint64_t>(p.rank) << 32 | static_cast<uint64_t>(p.step));
  return static_cast<int64_t>(
      uniform_below(bits[0] | static_cast<uint64_t>(bits[1]) << 32, static_cast<uint64_t>(limit)));
}

int64_t even_choice(const Options& o, const Place& p, int64_t k) {
  return ((p.token + p.rank * 3 + p.step) * o.slots + k) % o.experts;
}

// Four of five tokens go to `count` experts from `first` on, the others anywhere.
int64_t hot_choice(const Options& o, const Place& p, int64_t k, int64_t first, int64_t count) {
  if (random_below(p, 1, 5) == 0) return even_choice(o, p, k);
  return (first + (random_below(p, 2, count) + k) % count) % o.experts;
}

int64_t as_many(const Options& o, int64_t) {
  return o.tokens;
}

const std::vector<Workload>& workloads() {
  static const std::vector<Workload> kWorkloads = {
      {"balanced", "every expert as many", even_choice, as_many},
      {"hot experts", "4 of 5 tokens go to an eighth of the experts, one on each rank in turn",
       [](const Options& o, const Place& p, int64_t k) {
         const int64_t count = std::max(o.slots, o.experts / 8), stride = o.experts / count;
         if (random_below(p, 1, 5) == 0) return even_choice(o, p, k);
         return (random_below(p, 2, count) + k) % count * stride;
       },
       as_many},
      {"hot rank", "4 of 5 tokens go to the experts of the first rank",
       [](const Options& o, const Place& p, int64_t k) {
         return hot_choice(o, p, k, 0, std::max(o.slots, o.experts / o.ranks));
       },
       as_many},
      {"spread", "the choices of a token lie on different ranks",
       [](const Options& o, const Place& p, int64_t k) {
         const int64_t stride = std::max<int64_t>(1, o.experts / std::max<int64_t>(o.ranks, o.slots));
         return (random_below(p, 3, o.experts) + k * stride) % o.experts;
       },
       as_many},
      {"ragged sources", "the first rank has no token, the last one twice its share", even_choice,
       [](const Options& o, int64_t rank) { return o.ranks == 1 ? o.tokens : 2 * o.tokens * rank / (o.ranks - 1); }},
      {"idle rank", "nobody chooses the experts of the last rank",
       [](const Options& o, const Place& p, int64_t k) {
         const int64_t used = o.ranks == 1 ? o.experts : std::max(o.slots, o.experts - o.experts / o.ranks);
         return ((p.token + p.step) * o.slots + k) % used;
       },
       as_many},
      {"rotating", "the hot experts change with every step",
       [](const Options& o, const Place& p, int64_t k) {
         const int64_t count = std::max(o.slots, o.experts / 8);
         return hot_choice(o, p, k, p.step * count % o.experts, count);
       },
       as_many},
      {"burst", "even, but in every fourth step all go to the same experts",
       [](const Options& o, const Place& p, int64_t k) { return p.step % 4 == 3 ? k : even_choice(o, p, k); }, as_many},
  };
  return kWorkloads;
}

// Times of one workload on this rank, in seconds a step.
struct Times {
  double dispatch = 0, experts = 0, waiting = 0, combine = 0;
  int64_t rows = 0;   // of all steps
  int64_t wrong = 0;  // values that differ from the oracle
};

// What the bench keeps on one rank.
struct Bench {
  Bench(const Options& options, comm::Group& group)
      : o(options),
        ep(group),
        device(chosen_device(options.where.device)),
        dispatcher(group, options.experts, options.slots, options.hidden, {}, 1, device),
        store(device),
        workspace(device),
        y_there(device),
        x_there(device),
        weights_there(device),
        idx_there(device) {
    ModelConfig config;
    config.hidden_size = o.hidden;
    config.moe_intermediate_size = o.width;
    config.num_experts = o.experts;
    const std::vector<int32_t> rank_of = moe::consecutive_experts(o.experts, group.size());
    for (size_t e = 0; e < rank_of.size(); ++e) {
      if (rank_of[e] == group.rank()) local.push_back(static_cast<int64_t>(e));
    }
    experts.emplace(config, 0, store, local);
    store.commit(1, false);
    store.initialize(1);
    dispatcher.reserve({.max_rows = 2 * o.tokens, .headroom = static_cast<double>(group.size())});
    experts->reserve(2 * o.tokens * o.slots, workspace);
  }

  const Options& o;
  comm::Group& ep;
  Device device;
  moe::TokenDispatcher dispatcher;
  nn::ParameterStore store;
  std::vector<int64_t> local;  // this rank's experts
  std::optional<moe::Experts> experts;
  moe::ExpertWorkspace workspace;
  std::vector<float> x, weights, unwritten;
  std::vector<int32_t> idx;
  std::vector<int64_t> offsets;
  GrowingBuffer y_there;
  Mirror<float> x_there, weights_there;
  Mirror<int32_t> idx_there;
};

// When all that was begun on the device is done.
double now(const Bench& b) {
  if (b.device == Device::cuda) device_synchronize();
  return monotonic_seconds();
}

// Small integers and powers of two: every sum is exact in any order.
float x_of(const Place& p, int64_t d) {
  return static_cast<float>((p.token * 7 + p.rank * 5 + d * 3 + p.step) % 32);
}
float weight_of(int64_t k) {
  return 1.0f / static_cast<float>(int64_t{2} << (k % 4));
}

void fill(Bench& b, const Workload& workload, int64_t step, int64_t tokens) {
  b.x.clear(), b.idx.clear(), b.weights.clear();
  for (int64_t t = 0; t < tokens; ++t) {
    const Place place{step, b.ep.rank(), t};
    for (int64_t d = 0; d < b.o.hidden; ++d) b.x.push_back(x_of(place, d));
    for (int64_t k = 0; k < b.o.slots; ++k) {
      b.idx.push_back(static_cast<int32_t>(workload.choose(b.o, place, k)));
      b.weights.push_back(weight_of(k));
    }
  }
  b.unwritten.assign(b.x.size(), -1e30f);
}

// What comes home when expert e multiplies its rows by e + 1.
int64_t count_wrong(const Bench& b, const Workload& workload, int64_t step, int64_t tokens, ConstTensor y_TD) {
  const HostCopy y(y_TD);
  int64_t wrong = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    const Place place{step, b.ep.rank(), t};
    float factor = 0;
    for (int64_t k = 0; k < b.o.slots; ++k) {
      factor += weight_of(k) * static_cast<float>(workload.choose(b.o, place, k) + 1);
    }
    for (int64_t d = 0; d < b.o.hidden; ++d) {
      wrong += y.f32()[t * b.o.hidden + d] == factor * x_of(place, d) ? 0 : 1;
    }
  }
  return wrong;
}

// The rows of expert e times e + 1.
void scale(const Bench& b, const Tensor& rows) {
  HostEdit here(rows);
  for (size_t e = 0; e < b.local.size(); ++e) {
    const int64_t end = b.dispatcher.offsets()[e + 1] * b.o.hidden;
    for (int64_t i = b.dispatcher.offsets()[e] * b.o.hidden; i < end; ++i) {
      here.f32()[i] *= static_cast<float>(b.local[e] + 1);
    }
  }
  here.put();
}

void one_step(Bench& b, const Workload& workload, int64_t step, bool timed, Times& times) {
  const int64_t T = workload.tokens(b.o, b.ep.rank()), D = b.o.hidden, K = b.o.slots;
  fill(b, workload, step, T);
  b.offsets = {0, T};
  const int64_t number = b.ep.rank();
  nn::Pass pass;
  pass.num_sequences = 1, pass.seq_len = T;
  pass.granules = {b.offsets.data(), 1, true};
  pass.granule_numbers = &number;
  const ConstTensor x(b.x_there.of(b.x.data(), T * D), DType::f32, {T, D}, b.device);
  const ConstTensor weights(b.weights_there.of(b.weights.data(), T * K), DType::f32, {T, K}, b.device);
  const ConstTensor idx(b.idx_there.of(b.idx.data(), T * K), DType::i32, {T, K}, b.device);
  const Tensor y = b.y_there.view(DType::f32, T, D);
  copy(y, ConstTensor(b.unwritten.data(), DType::f32, {T, D}));
  now(b), b.ep.barrier();
  const double start = monotonic_seconds();
  b.dispatcher.route(pass, idx);
  Tensor rows = b.experts->input(b.dispatcher.num_rows());
  b.dispatcher.start_dispatch(x);
  b.dispatcher.finish_dispatch(0, rows);
  const double dispatched = now(b);
  b.experts->forward(b.dispatcher, 0);
  const double computed = now(b);
  b.ep.barrier();  // the slowest expert sets the pace
  const double waited = monotonic_seconds();
  scale(b, rows);
  now(b), b.ep.barrier();
  const double returning = monotonic_seconds();
  b.dispatcher.start_combine(0, rows);
  b.dispatcher.finish_combine(weights, y);
  const double end = now(b);
  times.wrong += count_wrong(b, workload, step, T, y);
  if (!timed) return;
  const double share = 1 / static_cast<double>(b.o.steps);
  times.dispatch += (dispatched - start) * share;
  times.experts += (computed - dispatched) * share;
  times.waiting += (waited - computed) * share;
  times.combine += (end - returning) * share;
  times.rows += b.dispatcher.num_rows();
}

struct Result {
  std::string workload;
  double dispatch = 0, experts = 0, waiting = 0, combine = 0;  // mean over ranks, the experts of the slowest
  double overload = 1;
  int64_t wrong = 0;
};

Result gather(const Workload& workload, const Times& mine, comm::Group& ep) {
  const int64_t ranks = ep.size();
  const double numbers[6] = {mine.dispatch,
                             mine.experts,
                             mine.waiting,
                             mine.combine,
                             static_cast<double>(mine.rows),
                             static_cast<double>(mine.wrong)};
  std::vector<double> all(static_cast<size_t>(6 * ranks));
  ep.all_gather(Tensor(all.data(), DType::f64, {6 * ranks}), ConstTensor(numbers, DType::f64, {6})).wait();
  Result result{.workload = workload.name};
  double rows = 0, most = 0;
  for (size_t r = 0; r < all.size(); r += 6) {
    const double part = 1 / static_cast<double>(ranks);
    result.dispatch += all[r] * part;
    result.experts = std::max(result.experts, all[r + 1]);
    result.waiting += all[r + 2] * part;
    result.combine += all[r + 3] * part;
    rows += all[r + 4], most = std::max(most, all[r + 4]);
    result.wrong += static_cast<int64_t>(all[r + 5]);
  }
  if (rows > 0) result.overload = most * static_cast<double>(ranks) / rows;
  return result;
}

std::vector<Result> measure(const Options& options, comm::Group& ep) {
  Bench bench(options, ep);
  std::vector<Result> results;
  for (const Workload& workload : workloads()) {
    if (!options.only.empty() && options.only != workload.name) continue;
    Times times;
    for (int64_t step = 0; step < options.steps + 2; ++step) one_step(bench, workload, step, step >= 2, times);
    results.push_back(gather(workload, times, ep));
  }
  return results;
}

void print_results(const Options& o, const std::vector<Result>& results, const char* transport) {
  std::printf("%lld experts, top-%lld, hidden %lld, width %lld; %lld tokens a rank, %d ranks (%s) x %d threads%s\n\n",
              static_cast<long long>(o.experts), static_cast<long long>(o.slots), static_cast<long long>(o.hidden),
              static_cast<long long>(o.width), static_cast<long long>(o.tokens), o.ranks, transport, current_threads(),
              o.where.device == "cuda" ? (" on " + device_name()).c_str() : "");
  std::printf("%-15s %9s %9s %9s %9s %9s   %s\n", "workload", "fullest", "dispatch", "experts", "waiting", "combine",
              "values");
  for (const Result& r : results) {
    std::printf("%-15s %7.2f x %6.2f ms %6.2f ms %6.2f ms %6.2f ms   %s\n", r.workload.c_str(), r.overload,
                1e3 * r.dispatch, 1e3 * r.experts, 1e3 * r.waiting, 1e3 * r.combine,
                r.wrong == 0 ? "exact" : str(r.wrong, " WRONG").c_str());
  }
  std::printf(
      "\nfullest: rows at the fullest rank over the mean; experts: of the slowest rank; waiting: mean over ranks,\n"
      "from the end of a rank's experts to the end of the last rank's\n\n");
  for (const Workload& workload : workloads()) std::printf("%-15s %s\n", workload.name, workload.meaning);
}

void print_json(const Options& o, const std::vector<Result>& results, const char* transport) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const Result& r : results) {
    rows.push_back({{"workload", r.workload},
                    {"overload", r.overload},
                    {"dispatch_seconds", r.dispatch},
                    {"expert_seconds", r.experts},
                    {"wait_seconds", r.waiting},
                    {"combine_seconds", r.combine},
                    {"wrong_values", r.wrong}});
  }
  const nlohmann::ordered_json line = {{"transport", transport},
                                       {"device", o.where.device},
                                       {"ranks", o.ranks},
                                       {"threads", current_threads()},
                                       {"workloads", rows}};
  std::printf("%s\n", line.dump().c_str());
}

// On every rank; the first one reports.
int run_on_rank(Options options, std::unique_ptr<comm::Group> world) {
  options.ranks = world->size();
  if (options.slots > options.experts || options.ranks > options.experts) {
    throw Error(ExitCode::usage, str("--experts is ", options.experts, " but must be at least --slots (", options.slots,
                                     ") and the ranks (", options.ranks, ")"));
  }
  world = on_devices(std::move(world), options.where);
  const std::vector<Result> results = measure(options, *world);
  if (world->rank() == 0) (options.json ? print_json : print_results)(options, results, world->transport());
  int64_t wrong = 0;
  for (const Result& r : results) wrong += r.wrong;
  if (wrong > 0) throw Error(ExitCode::bug, str(wrong, " values came home wrong"));
  return 0;
}

}  // namespace

void add_bench_moe(CommandLine& bench) {
  auto options = std::make_shared<Options>();
  CommandLine command = bench.add_subcommand("moe", "dispatch, experts and combine under eight kinds of load");
  add_rank_options(command, options->where);
  command.add_option("--experts", options->experts, "experts on all ranks together").between(1, 1024);
  command.add_option("--slots", options->slots, "experts a token goes to").between(1, 64);
  command.add_option("--hidden", options->hidden, "width of a token").between(1, 65536);
  command.add_option("--width", options->width, "width of an expert").between(1, 65536);
  command.add_option("--tokens", options->tokens, "tokens of each rank").between(1, 1 << 20);
  command.add_option("--steps", options->steps, "steps to measure, after two that are not").positive();
  command.add_option("--only", options->only, "one workload");
  command.add_flag("--json", options->json, "one JSON object on stdout");
  command.footer("Example: switchyard bench moe --ranks 4");
  command.runs([options] {
    return run_ranks(options->where.how,
                     [&](std::unique_ptr<comm::Group> world) { return run_on_rank(*options, std::move(world)); });
  });
}

}  // namespace tools
