#!/usr/bin/env python3
"""What uneven experts cost, on every transport, and what recording their load costs: two tables.

usage: expert_load_tables.py [--only moe|recording] [--rounds N] [--switchyard PROGRAM] [--to DIRECTORY]

bench_moe.md: `bench moe` on 2 and 4 ranks as threads and, where mpirun is installed, as processes, one thread each; every
value that comes home is compared with an exact oracle. bench_recording.md: `bench recording`, steps with nobody watching,
with recording and with recording and a trace in turns. On a machine with other work, run it by `chrt -r 1`.
"""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONFIG = "configs/bench_small_cpu.json"


def switchyard(program, *arguments):
    result = subprocess.run([program, *map(str, arguments), "--json"], capture_output=True, text=True, cwd=ROOT)
    if result.returncode != 0:
        sys.exit(f"switchyard {' '.join(map(str, arguments))}: {result.stderr}")
    return json.loads(result.stdout)


def origin(program, command):
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()  # with its commit
    return f"{datetime.date.today()}, {version}, `scripts/expert_load_tables.py`: `{command}`, {os.cpu_count()} processors."


def moe_table(program):
    transports = ["threads"] + (["mpi"] if shutil.which("mpirun") else [])
    lines = ["# Kinds of expert load", "", origin(program, "bench moe --ranks N --transport T --threads 1"), "",
             "16 experts, top-2, hidden 256, width 512, 1,024 tokens a rank; milliseconds a step: experts of the slowest rank, the "
             "others mean over ranks; waiting: from the end of a rank's experts to the end of the last rank's.", "",
             "| transport | ranks | load | fullest rank, of the mean | dispatch | experts | waiting | combine | values |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for transport in transports:
        for ranks in (2, 4):
            for row in switchyard(program, "bench", "moe", "--ranks", ranks, "--transport", transport, "--threads", 1)["workloads"]:
                times = " | ".join(f"{1e3 * row[f'{part}_seconds']:.2f}" for part in ("dispatch", "expert", "wait", "combine"))
                values = "exact" if row["wrong_values"] == 0 else f"{row['wrong_values']} wrong"
                lines.append(f"| {transport} | {ranks} | {row['workload']} | {row['overload']:.2f} | {times} | {values} |")
    return lines


def recording_table(program, rounds):
    lines = ["# Cost of recording expert load", "", origin(program, f"bench recording {CONFIG} --rounds {rounds}"), "",
             "Median over rounds of how much longer a step takes than the one of its round that nobody watches.", "",
             "| ranks | threads | a step | recording | recording and a trace | trace |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for ranks, threads in ((1, 2), (2, 1)):
        r = switchyard(program, "bench", "recording", CONFIG, "--rounds", rounds, "--ranks", ranks, "--threads", threads)
        lines.append(f"| {ranks} | {threads} | {1e3 * r['step_seconds']:.0f} ms | {100 * r['recording']:+.2f} % | "
                     f"{100 * r['trace']:+.2f} % | {r['trace_bytes_per_step'] / 1e3:.0f} kB a step |")  # fmt: skip
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["moe", "recording"])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--switchyard", default=os.path.join(ROOT, "build", "switchyard"))
    parser.add_argument("--to", default=os.path.join(ROOT, "tests", "results"))
    options = parser.parse_args()
    program = os.path.abspath(options.switchyard)
    for name, table in (("moe", lambda: moe_table(program)), ("recording", lambda: recording_table(program, options.rounds))):
        if options.only in (None, name):
            lines = table()
            print("\n".join(lines), flush=True)
            with open(os.path.join(options.to, f"bench_{name}.md"), "w", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
