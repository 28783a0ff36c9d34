#!/usr/bin/env python3
"""What `switchyard plan` says beside what happens: memory and time of a step on this machine, and Mixtral on 64 H100.

usage: plan_table.py [--configs LIST] [--ranks LIST] [--repetitions N] [--switchyard PROGRAM] [--results FILE]

Each layout is planned and measured in turns. The ratio of times is the median over turns, since the machine's speed
changes more between turns than within one. Memory measured is what the ranks of `bench step` allocate to train, divided
by the ranks. Exit 1 if memory differs by more than 5 % or time by more than 25 %.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MIXTRAL = ["configs/mixtral_8x7b.json", "--cluster", "configs/clusters/h100_64.json", "--set", "train.seq_len=4096",
           "--set", "train.batch_tokens=1048576", "--set", "train.granules=256", "--set", "train.micro_batch=1",
           "--set", "parallel.ep_size=8"]
MEGATRON_TFLOPS = 468  # Megatron Core v0.9: Mixtral 8x7B, 64 H100, EP8 PP4, sequence 4096, 256 sequences a step


def switchyard(program, *arguments):
    result = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)
    if result.returncode != 0:
        sys.exit(f"switchyard {' '.join(map(str, arguments))}: {result.stderr}")
    return json.loads(result.stdout)


def compare(program, config, ranks, repetitions):
    plans, benches = [], []
    for _ in range(repetitions):
        plans.append(switchyard(program, "plan", config, "--ranks", ranks, "--json"))
        steps = max(3, min(2000, int(3 / plans[-1]["step_seconds"])))
        benches.append(switchyard(program, "bench", "step", config, "--ranks", ranks, "--steps", steps, "--json"))
    row = {"config": os.path.basename(config), "ranks": ranks}
    row["planned_memory"] = plans[0]["memory_bytes"]
    row["memory"] = statistics.median(b["memory_bytes"] for b in benches) / ranks
    row["resident"] = statistics.median(b["resident_bytes"] for b in benches) / ranks
    row["planned_time"] = statistics.median(p["step_seconds"] for p in plans)
    row["time"] = statistics.median(b["step_seconds"] for b in benches)
    row["time_ratio"] = statistics.median(p["step_seconds"] / b["step_seconds"] for p, b in zip(plans, benches))
    return row


def table(rows):
    lines = ["| config | ranks | memory planned, MB a rank | allocated | ratio | resident | step planned, ms | measured | ratio |",
             "|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        lines.append(f"| `{r['config']}` | {r['ranks']} | {r['planned_memory'] / 1e6:.2f} | {r['memory'] / 1e6:.2f} | "
                     f"{r['planned_memory'] / r['memory']:.3f} | {r['resident'] / 1e6:.2f} | {r['planned_time'] * 1e3:.2f} | "
                     f"{r['time'] * 1e3:.2f} | {r['time_ratio']:.2f} |")
    return lines


def mixtral(program):
    plan = switchyard(program, "plan", *MIXTRAL, "--json")
    return ["", "## Mixtral-8x7B on 64 H100", "", f"`switchyard plan {' '.join(MIXTRAL)}`: "
            f"{plan['flops_per_second_and_rank'] / 1e12:.0f} TFLOP/s of each GPU, {plan['step_seconds']:.2f} s a step, "
            f"{plan['memory_bytes'] / 1e9:.0f} GB a rank of {plan['memory_there'] / 1e9:.0f} GB "
            f"({'fits' if plan['fits'] else 'does not fit'}). Megatron Core publishes {MEGATRON_TFLOPS} TFLOP/s for each GPU on "
            "that model and machine (expert parallel 8, pipeline parallel 4). The plan is a formula over published rates of "
            "single kernels, nothing overlaps in it, and no GPU has run it."]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--configs", default="configs/tiny.json,configs/bench_small_cpu.json,configs/bench_cpu.json")
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--switchyard", default=os.path.join(ROOT, "build", "switchyard"))
    parser.add_argument("--results")
    options = parser.parse_args()
    options.switchyard = os.path.abspath(options.switchyard)
    before = os.getloadavg()[0]
    rows = [compare(options.switchyard, config, int(ranks), options.repetitions)
            for config in options.configs.split(",") for ranks in options.ranks.split(",")]
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = ["# What `plan` says and what happens", "",
             f"Date {datetime.date.today()}, commit {commit}, {len(os.sched_getaffinity(0))} processors, load average {before:.1f} "
             f"before and {os.getloadavg()[0]:.1f} after. Made by `scripts/plan_table.py`, {options.repetitions} plans and "
             "measurements in turns; the medians. Memory is what buffers and heap come to; resident are the pages of the machine "
             "that the process took beyond its start, program and stacks among them.", ""]
    lines += table(rows) + mixtral(options.switchyard)
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.results:
        open(options.results, "w", encoding="utf-8").write(text)
    bad = [r for r in rows if not 0.95 <= r["planned_memory"] / r["memory"] <= 1.05 or not 0.75 <= r["time_ratio"] <= 1.25]
    for r in bad:
        print(f"{r['config']} on {r['ranks']} ranks: beyond 5 % of memory or 25 % of time", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
