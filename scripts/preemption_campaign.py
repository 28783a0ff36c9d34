#!/usr/bin/env python3
"""Sends signals to small runs at random moments, resumes each on another layout, and compares the digests at the end.

usage: preemption_campaign.py SWITCHYARD [--signals N] [--seed N] [--results FILE]

Each signal (SIGTERM, SIGINT, SIGUSR1, or a file STOP) comes at a random moment of a run: while it starts, reads its text,
trains, evaluates or saves. Every one has to end in exit code 75 with a whole checkpoint of the step that the last line
names, or before this run's first step, where it says that there was nothing new to save and leaves what there was. A run
that has ended must have the digest of one that nobody disturbed. Exit 0 if all did, 1 otherwise.
"""

import argparse
import collections
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT, "SIGUSR1": signal.SIGUSR1, "STOP file": None}


def write_inputs():
    with open("tiny.txt", "w", encoding="utf-8") as file:
        for i in range(3000):
            file.write(f"line {i} of a text in which {i * 7 % 13} follows {i * 7 % 12} and so on\n")
    config = json.load(open(os.path.join(ROOT, "configs/tiny.json"), encoding="utf-8"))
    del config["$schema"]
    config["train"]["stop"] = {"steps": 120}
    config["checkpoint"] = {"every": 25, "keep_last": 2}
    config["eval"] = {"every": 10}
    json.dump(config, open("config.json", "w", encoding="utf-8"))


def start(switchyard, directory, ranks):
    command = [switchyard, "train", "config.json", "--run-dir", directory, "--ranks", str(ranks), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_handlers(process):
    """Until the process catches SIGTERM, which it does before it reads anything."""
    while process.poll() is None:
        try:
            with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
                caught = next(line for line in status if line.startswith("SigCgt"))
        except (FileNotFoundError, StopIteration, ProcessLookupError):
            return
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.001)


def disturb(process, directory, name, delay):
    wait_for_handlers(process)
    try:
        process.wait(delay)
        return
    except subprocess.TimeoutExpired:
        pass
    if SIGNALS[name] is None:
        open(os.path.join(directory, "STOP"), "w").close()
    else:
        process.send_signal(SIGNALS[name])


def problem_of_checkpoint(switchyard, path):
    verified = subprocess.run([switchyard, "ckpt", "verify", path], capture_output=True, text=True, check=False)
    return "" if verified.returncode == 0 else verified.stderr.strip() or f"{path} is not whole"


def problem_of(switchyard, directory, code, out, err):
    """What is wrong with a run that was stopped; an empty text if nothing is."""
    if code != 75:
        return f"exit {code}: {err.strip().splitlines()[-1:]}"
    checkpoints = os.path.join(directory, "checkpoints")
    if "there was nothing new to save" in err:
        names = os.listdir(checkpoints) if os.path.isdir(checkpoints) else []
        steps = [name for name in names if name.startswith("step-")]
        return problem_of_checkpoint(switchyard, os.path.join(checkpoints, max(steps))) if steps else ""
    step = json.loads(out.splitlines()[-1])["step"]
    if f"step {step} is saved" not in err:
        return f"the last line does not name step {step}: {err.strip().splitlines()[-1:]}"
    return problem_of_checkpoint(switchyard, os.path.join(checkpoints, f"step-{step:08d}"))


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("switchyard")
    parser.add_argument("--signals", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results")
    arguments = parser.parse_args()
    switchyard = os.path.abspath(arguments.switchyard)
    results = arguments.results and os.path.abspath(arguments.results)
    draw = random.Random(arguments.seed)
    problems, counts = [], collections.Counter()
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        write_inputs()
        began = time.monotonic()
        undisturbed = start(switchyard, "undisturbed", 1)
        out, err = undisturbed.communicate()
        assert undisturbed.returncode == 0, err
        seconds = time.monotonic() - began
        digest = json.loads(out.splitlines()[-1])["digest"]
        runs = sent = 0
        directory = "run-0"
        while sent < arguments.signals:
            name = draw.choice(list(SIGNALS))
            process = start(switchyard, directory, draw.choice((1, 2, 4)))
            # most runs are stopped early, so that each is stopped many times
            disturb(process, directory, name, draw.random() ** 2 * seconds)
            out, err = process.communicate()
            if os.path.exists(f"{directory}/STOP"):
                os.remove(f"{directory}/STOP")
            if process.returncode == 0:
                runs += 1
                result = json.loads(out.splitlines()[-1])
                if result["digest"] != digest:
                    problems.append(f"{directory} ended with digest {result['digest']} but should with {digest}")
                directory = f"run-{runs}"
                continue
            sent += 1
            counts[name] += 1
            counts["before the first step" if "nothing new to save" in err else "with a checkpoint"] += 1
            if problem := problem_of(switchyard, directory, process.returncode, out, err):
                problems.append(f"signal {sent} ({name}) to {directory}: {problem}")
        last = start(switchyard, directory, 1)
        out, err = last.communicate()
        if last.returncode != 0 or json.loads(out.splitlines()[-1])["digest"] != digest:
            problems.append(f"{directory} went on to exit {last.returncode}: {out} {err}")
    for problem in problems:
        print(problem)
    verdict = f"{sent} signals, {runs + 1} runs ended: {len(problems)} problems"
    print(verdict)
    if results:
        commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        with open(results, "w", encoding="utf-8") as file:
            file.write(f"# Preemption\n\n{datetime.date.today()}, commit {commit.stdout.strip()}, "
                       f"`scripts/preemption_campaign.py SWITCHYARD --signals {sent} --seed {arguments.seed}`: {verdict}.\n\n"
                       "Each signal came at a random moment of a run on 1, 2 or 4 ranks (threads) and was followed by a resume on "
                       "another layout. A problem would be\nan exit code other than 75, a checkpoint that is not whole, or a "
                       "digest other than that of the undisturbed run.\n\n| | signals |\n|---|---|\n")
            for key in (*SIGNALS, "before the first step", "with a checkpoint"):
                file.write(f"| {key} | {counts[key]} |\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
