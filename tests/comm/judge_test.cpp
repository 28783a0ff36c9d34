// What is said of ranks that die or hang, and that nothing is said of ranks that only wait or were suspended.
#include "comm/judge.h"

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "tests/support/ranks.h"

namespace {

using comm::Judge;
using comm::Sighting;

// A job of three ranks, seen every quarter of a second.
class Job {
 public:
  Job() { engine::activity().enter("start"); }

  void run(double seconds) {
    for (const double end = now_ + seconds; now_ < end;) {
      now_ += 0.25;
      for (int r = 0; r < 3; ++r) {
        if (works[r]) ++seen[r].progress;
        if (answers[r]) judge.saw(r, seen[r], now_);
      }
      const std::string text = judge.verdict(now_);
      if (!text.empty() && verdict.empty()) verdict = text, said = now_;
    }
  }
  void steps(int64_t count, double seconds) {
    for (int64_t i = 0; i < count; ++i) {
      for (Sighting& s : seen) ++s.step, s.in_step = true;
      run(seconds);
    }
  }
  void waits(int rank, const char* collective) {
    std::snprintf(seen[rank].collective, sizeof(seen[rank].collective), "%s", collective);
    std::snprintf(seen[rank].group, sizeof(seen[rank].group), "ep");
    seen[rank].number = 118, seen[rank].layer = 3;
    works[rank] = false;
  }
  void suspend(double seconds) { now_ += seconds; }
  double now() const { return now_; }

  Judge judge{{"a", "b", "b"}, {}, 0};
  Sighting seen[3];
  bool works[3] = {true, true, true}, answers[3] = {true, true, true};
  std::string verdict;
  double said = 0;

 private:
  double now_ = 0;
};

}  // namespace

TEST_CASE("judge: a job that works, however long its steps, is left alone") {
  Job job;
  job.run(100);
  job.steps(20, 1);
  job.steps(3, 40);
  CHECK(job.verdict.empty());
}

TEST_CASE("judge: a rank that died is named with host, step and phase, and so are those who wait for it") {
  Job job;
  job.steps(12, 1);
  std::snprintf(job.seen[1].phase, sizeof(job.seen[1].phase), "dispatch");
  job.seen[1].layer = 3;
  job.waits(0, "all_to_all_v"), job.waits(2, "all_to_all_v");
  job.run(0.25);
  job.judge.died(1);
  job.run(0.25);
  CHECK(
      job.verdict ==
      "rank 1 on b died in step 12, dispatch, layer 3; ranks 0, 2 waited in all_to_all_v number 118 of ep for layer 3; "
      "start again, and the run goes on from its last checkpoint");
}

TEST_CASE("judge: a rank without a sign of life is found after ten seconds, or five steps if that is longer") {
  for (const double step : {0.5, 4.0}) {
    Job job;
    job.steps(10, step);
    job.answers[2] = false;
    const double begun = job.now();
    job.run(40);
    CHECK(job.verdict.substr(0, 40) == "rank 2 on b gives no sign of life since ");
    CHECK(job.said - begun == doctest::Approx(std::max(10.0, 5 * step)).epsilon(0.05));
  }
}

TEST_CASE("judge: a rank that answers but gets nowhere hangs; one that waits for it does not") {
  Job job;
  job.steps(10, 0.5);
  std::snprintf(job.seen[1].phase, sizeof(job.seen[1].phase), "experts forward");
  job.works[1] = false;
  job.waits(0, "all_to_all_v");
  job.waits(2, "reduce_scatter_sum");
  job.run(11);
  CHECK(job.verdict.substr(0, 22) == "rank 1 on b hangs sinc");
  CHECK(job.verdict.find(
            "in step 10, experts forward; rank 0 waited in all_to_all_v number 118 of ep for layer 3; rank 2 "
            "waited in reduce_scatter_sum") != std::string::npos);
}

TEST_CASE("judge: between steps a rank may take its time, and the others may wait for it") {
  Job job;
  job.steps(10, 0.5);
  job.seen[0].in_step = false;
  job.works[0] = false;
  job.waits(1, "barrier"), job.waits(2, "barrier");
  job.run(500);
  CHECK(job.verdict.empty());
}

TEST_CASE("judge: ranks that all wait for each other are found") {
  Job job;
  job.steps(10, 0.5);
  job.waits(0, "all_to_all"), job.waits(1, "all_to_all"), job.waits(2, "barrier");
  job.run(11);
  CHECK(job.verdict.find("wait for each other") != std::string::npos);
  CHECK(job.verdict.find("rank 2 waited in barrier") != std::string::npos);
}

TEST_CASE("judge: a job that was suspended as a whole goes on") {
  Job job;
  job.steps(10, 0.5);
  job.suspend(600);
  job.answers[1] = job.answers[2] = false;  // not awake yet
  job.run(5);
  job.answers[1] = job.answers[2] = true;
  job.steps(5, 0.5);
  CHECK(job.verdict.empty());
}

TEST_CASE("judge: of a rank that leaves by itself nothing is said") {
  Job job;
  job.steps(3, 0.5);
  job.judge.left(1);
  job.judge.died(1);
  job.run(20);
  CHECK(job.verdict.empty());
}

TEST_CASE("thread_watch: a rank thread that hangs ends the process with exit code 9 and one message") {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    const comm::WatchLimits limits{.seconds = 1, .first_step = 1};
    comm::run_thread_ranks(
        3, 1,
        [](std::unique_ptr<comm::Group> group) {
          engine::activity().step = 7;
          engine::activity().in_step = true;
          engine::activity().enter("experts forward");
          group->set_name("ep");
          if (group->rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(60));
          group->barrier();
        },
        &limits);
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char part[256];
  for (ssize_t got = 0; (got = read(ends[0], part, sizeof(part))) > 0;) text.append(part, static_cast<size_t>(got));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 9);
  INFO(text);
  CHECK(text.find("error: rank 1 on ") == 0);
  CHECK(text.find("in step 7, experts forward; ranks 0, 2 waited in barrier number 1 of ep;") != std::string::npos);
  CHECK(text.find('\n') == text.size() - 1);
}
