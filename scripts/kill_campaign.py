#!/usr/bin/env python3
"""Kills training runs at random instants, resumes them on 1 to 4 ranks, and asks what became of their checkpoints.

usage: kill_campaign.py [--kills N] [--seconds N] [--seed S] [--work DIR] [--switchyard PROGRAM] [--results FILE]

A run saves after every step. It is killed with SIGKILL, half the time at any instant of its life, half the time within
30 ms of a line it prints, and started again on another number of ranks, until it ends by itself. Each time:

- the next start goes on from the last step that was called durable before the kill, or from a later one, and every file
  of it has its hash;
- no process is left behind;
- a run that ends has the digest of the run that was never disturbed.

Runs are drawn from the seed, one after the other. With --work the runs that are over are kept there, and the campaign
goes on with the next when it is started again. With --seconds no run is begun after so long. Exit 0 if all of that held, 1
otherwise.
"""

import argparse
import datetime
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DURABLE = re.compile(r"step-(\d{8}) durable")
RESUMED = re.compile(r"^resume .*step-(\d{8})", re.MULTILINE)


class Failure(Exception):
    pass


def write_inputs(directory):
    with open(os.path.join(ROOT, "configs/tiny.json"), encoding="utf-8") as file:
        config = json.load(file)
    config["model"] |= {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "moe_intermediate_size": 16}
    config["train"] |= {"seq_len": 16, "batch_tokens": 64, "stop": {"steps": 15}}
    config["checkpoint"] = {"every": 1, "keep_last": 2}
    del config["$schema"]
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    with open(os.path.join(directory, "tiny.txt"), "w", encoding="utf-8") as file:
        file.writelines(f"line {i} of a text in which {i * 7 % 13} follows {i * 7 % 12}\n" for i in range(60))


def start(options, directory, run, ranks, resume, log):
    command = [options.switchyard, "train", "config.json", "--run-dir", run, "--json", "--resume", resume]
    command += ["--ranks", str(ranks), "--threads", "1"]
    return subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=log)


def digest_of(stdout):
    return json.loads(stdout.splitlines()[-1])["digest"]


def undisturbed(options, directory):
    """Digest and seconds of a run that is left alone."""
    began = time.monotonic()
    with open(os.path.join(directory, "whole.log"), "w+", encoding="utf-8") as log:
        process = start(options, directory, "whole", 1, "never", log)
        stdout = process.communicate(timeout=300)[0]
        if process.returncode != 0:
            log.seek(0)
            raise Failure(f"a run that is left alone ends with exit {process.returncode}: {log.read()}")
    return digest_of(stdout), time.monotonic() - began


def wait_to_kill(process, path, draw, seconds):
    """Sleeps until the chosen instant; True if the process still lives then."""
    near_a_line = draw.random() < 0.5
    end = time.monotonic() + draw.uniform(0, seconds)
    lines = draw.randrange(1, 26)
    while process.poll() is None:
        if near_a_line:
            with open(path, "rb") as log:
                if log.read().count(b"\n") >= lines:
                    time.sleep(draw.uniform(0, 0.03))
                    return process.poll() is None
        elif time.monotonic() >= end:
            return True
        time.sleep(0.003)
    return False


def left_behind(directory):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(pid) != os.getpid() and os.readlink(f"/proc/{pid}/cwd") == directory:
                found.append(pid)
        except OSError:
            continue
    return found


def one_start(options, directory, run, draw, seconds, durable, resume):
    """Starts the run and kills it, or lets it end. Returns its exit status, output and log."""
    path = os.path.join(directory, run + ".log")
    ranks = draw.randint(1, 4)
    with open(path, "w", encoding="utf-8") as log:
        process = start(options, directory, run, ranks, resume, log)
        if wait_to_kill(process, path, draw, seconds * (1 + ranks) / 2):
            process.kill()
        stdout = process.communicate(timeout=300)[0]
    with open(path, encoding="utf-8") as log:
        text = log.read()
    if orphans := left_behind(directory):
        raise Failure(f"{run}: processes {', '.join(orphans)} are left behind")
    resumed = RESUMED.search(text)
    if resumed and int(resumed[1]) < durable:
        raise Failure(f"{run}: step {durable} was called durable, but the run goes on from step {int(resumed[1])}")
    if durable > 0 and not resumed and DURABLE.search(text):
        raise Failure(f"{run}: step {durable} was called durable, but the run began anew")
    return process.returncode, stdout, text


def one_run(options, directory, number, expected, seconds):
    """A run from its beginning to its end. Returns what happened to it."""
    draw = random.Random(f"{options.seed}/{number}")
    run = f"run-{number}"
    checkpoints = os.path.join(directory, run, "checkpoints")
    facts = {"kills": 0, "while_saving": 0, "before_durable": 0, "starts": 0}
    durable, resume = 0, "auto"
    while True:
        facts["starts"] += 1
        status, stdout, text = one_start(options, directory, run, draw, seconds, durable, resume)
        resume = "auto"
        steps = [int(step) for step in DURABLE.findall(text)]
        durable = max([durable, *steps])
        if status == 0:
            break
        if status == 6 and durable == 0 and "--resume never" in text:
            resume = "never"  # killed during its first save: what to do is said, and the user's to decide
            continue
        if status != -9:
            raise Failure(f"{run}: exit {status}: {text[-2000:]}")
        facts["kills"] += 1
        facts["before_durable"] += durable == 0
        if os.path.isdir(checkpoints):
            facts["while_saving"] += any(name.startswith((".tmp-", ".trash-")) for name in os.listdir(checkpoints))
    if digest_of(stdout) != expected:
        raise Failure(f"{run}: ends with digest {digest_of(stdout)} but an undisturbed run with {expected}")
    shutil.rmtree(os.path.join(directory, run))
    os.remove(os.path.join(directory, run + ".log"))
    return facts


def report(options, done, seconds):
    total = {key: sum(facts[key] for facts in done) for key in done[0]}
    lines = [f"{total['kills']} kills in {len(done)} runs on 1 to 4 ranks: no step that was called durable was lost, every run "
             f"ended with the digest of an undisturbed one, no process was left behind.", "",
             "| | |", "|---|---|",
             f"| kills | {total['kills']} |",
             f"| of them while a checkpoint was being written or removed | {total['while_saving']} |",
             f"| of them before the first one was durable | {total['before_durable']} |",
             f"| starts | {total['starts']} |",
             f"| runs, each compared by digest | {len(done)} |",
             f"| seconds | {seconds:.0f} |"]
    print("\n".join(lines))
    if options.results:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
        with open(options.results, "w", encoding="utf-8") as file:
            file.write(f"# Runs that are killed\n\n{datetime.date.today()}, commit {commit.strip()}, "
                       f"`scripts/kill_campaign.py --kills {options.kills} --seed {options.seed}`: " + "\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work")
    parser.add_argument("--switchyard", default=os.path.join(ROOT, "build/switchyard"))
    parser.add_argument("--results")
    options = parser.parse_args()
    options.switchyard = os.path.abspath(options.switchyard)
    with tempfile.TemporaryDirectory() as scratch:
        directory = os.path.realpath(scratch)
        progress = os.path.join(options.work or directory, f"kills-{options.seed}.json")
        os.makedirs(os.path.dirname(progress), exist_ok=True)
        state = {"runs": [], "seconds": 0}
        if os.path.exists(progress):
            with open(progress, encoding="utf-8") as file:
                state = json.load(file)
        write_inputs(directory)
        try:
            expected, seconds = undisturbed(options, directory)
            end = time.monotonic() + options.seconds
            while sum(facts["kills"] for facts in state["runs"]) < options.kills and time.monotonic() < end:
                began = time.monotonic()
                state["runs"].append(one_run(options, directory, len(state["runs"]), expected, seconds))
                state["seconds"] += time.monotonic() - began
                with open(progress + ".new", "w", encoding="utf-8") as file:
                    json.dump(state, file)
                os.replace(progress + ".new", progress)
        except Failure as failure:
            print(f"FAILED: {failure}", file=sys.stderr)
            return 1
    report(options, state["runs"], state["seconds"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
