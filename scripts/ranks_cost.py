#!/usr/bin/env python3
"""Measures what two ranks cost beside one with the same threads, and what exact sums cost, and prints a table.

usage: ranks_cost.py [--switchyard PROGRAM] [--rounds N] [--steps N] [--results FILE] [CONFIG...]

Default configs: configs/bench_cpu.json and configs/bench_fine_cpu.json. Contestants of one round run one after the other,
each alone: 1 rank of 2 threads; 2 ranks of 1 thread with ep_size 1 and 2, in one piece and in two chunks; and 1 rank of 2
threads with one granule, which adds gradients in plain fp32 and needs no exact sums. All with routing forced to be uniform;
the last two rows are with real routing. Figures are medians over the rounds; a ratio is the median of the rounds' ratios. The
load of the machine is part of the table: beside other work its figures say little.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
UNIFORM = ["--set", "model.router.force=uniform"]
ONE = ["--ranks", "1", "--threads", "2"]
TWO = ["--ranks", "2", "--threads", "1"]
CHUNKS = ["--set", "parallel.overlap_chunks=2"]
CONTESTANTS = {
    "1 rank x 2 threads": UNIFORM + ONE,
    "2 ranks, ep_size 1": UNIFORM + TWO + ["--set", "parallel.ep_size=1"],
    "2 ranks, ep_size 2": UNIFORM + TWO + ["--set", "parallel.ep_size=2"],
    "2 ranks, ep_size 2, 2 chunks": UNIFORM + TWO + ["--set", "parallel.ep_size=2"] + CHUNKS,
    "1 rank, one granule (no exact sums)": UNIFORM + ONE + ["--set", "train.granules=1"],
    "1 rank, real routing": ONE,
    "2 ranks, ep_size 2, real routing": TWO + ["--set", "parallel.ep_size=2"],
}


def bench(program, config, steps, arguments):
    command = [program, "bench", "step", config, "--json", "--steps", str(steps), *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(program, config, rounds, steps):
    speeds, imbalance = {name: [] for name in CONTESTANTS}, {}
    for number in range(rounds):
        for name, arguments in CONTESTANTS.items():
            result = bench(program, config, steps, arguments)
            speeds[name].append(result["tokens_per_second"])
            imbalance[name] = result["imbalance"]
            print(f"{os.path.basename(config)} round {number + 1}: {name}: {speeds[name][-1]:.0f} tokens/s", flush=True)
    base = speeds["1 rank x 2 threads"]
    rows = []
    for name, values in speeds.items():
        ratio = statistics.median(value / first for value, first in zip(values, base))
        rows.append((name, statistics.median(values), ratio, imbalance[name]))
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("configs", nargs="*", default=[f"{ROOT}/configs/bench_cpu.json", f"{ROOT}/configs/bench_fine_cpu.json"])
    parser.add_argument("--switchyard", default=f"{ROOT}/build/switchyard")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--results")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    lines = ["# What ranks cost", ""]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    tables = []
    for config in options.configs:
        tables += [f"`{os.path.basename(config)}`", "", "| ranks | tokens/s | of 1 rank x 2 threads | busiest expert over mean |", "|---|---|---|---|"]
        for name, speed, ratio, imbalance in measure(options.switchyard, config, options.rounds, options.steps):
            tables.append(f"| {name} | {speed:.0f} | {ratio:.2f} | {imbalance:.2f} |")
        tables.append("")
    lines += [f"{datetime.date.today()}, commit {commit}, `scripts/ranks_cost.py --rounds {options.rounds} --steps {options.steps}`, "
              f"{os.cpu_count()} processors, load {before:.1f} before it began.", ""]  # fmt: skip
    text = "\n".join(lines + tables).rstrip() + "\n"
    print("\n" + text)
    if options.results:
        with open(options.results, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
