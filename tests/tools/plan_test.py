#!/usr/bin/env python3
"""`plan` as a user runs it: on this machine, on described ones, and where something does not fit.

usage: plan_test.py SWITCHYARD REPOSITORY
"""

import glob
import json
import os
import subprocess
import sys
import tempfile

SWITCHYARD, ROOT = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
TINY, MIXTRAL = f"{ROOT}/configs/tiny.json", f"{ROOT}/configs/mixtral_8x7b.json"


def run(*arguments, code=0):
    result = subprocess.run([SWITCHYARD, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == code, (arguments, result.returncode, result.stdout, result.stderr)
    return result


def test_this_machine():
    plan = json.loads(run("plan", TINY, "--ranks", 2, "--json").stdout)
    assert plan["ranks"] == 2 and plan["ep_size"] == 2 and plan["fits"], plan
    assert sum(plan["memory"].values()) == plan["memory_bytes"] > 1e6, plan
    assert abs(sum(phase["seconds"] for phase in plan["phases"].values()) / plan["step_seconds"] - 1) < 1e-9, plan
    assert plan["all_to_all_bytes"] > 0 and plan["reduction_bytes"] > 0 and 0 < plan["fraction_of_peak"] < 1, plan
    assert "cost_per_billion_tokens" not in plan, plan
    text = run("plan", TINY, "--price", 2).stdout
    assert "memory of a rank" in text and "exact sums" in text and "and cost" in text and "this machine" in text, text


def test_described_machines():
    presets = sorted(glob.glob(f"{ROOT}/configs/clusters/*.json"))
    assert len(presets) >= 3, presets
    for preset in presets:
        plan = json.loads(run("plan", TINY, "--cluster", preset, "--ranks", 1, "--check", "--price", 3, "--json").stdout)
        hours = 1e9 / plan["tokens_per_second"] / 3600
        assert abs(plan["cost_per_billion_tokens"] / (3 * hours) - 1) < 1e-9, plan
    large = ["plan", MIXTRAL, "--cluster", f"{ROOT}/configs/clusters/h100_64.json", "--set", "train.granules=32",
             "--ranks", 32]
    assert "does not fit into 80 GB" in run(*large).stdout
    error = run(*large, "--check", code=7).stderr
    assert "a rank needs" in error and "but 64 x H100 has 80 GB; " in error, error
    assert "train.granules" in run("plan", MIXTRAL, "--ranks", 64, "--cluster", presets[0], code=2).stderr


def test_bad_descriptions():
    with open("bad.json", "w", encoding="utf-8") as file:
        file.write('{\n  "flops_per_secnd": 1e12,\n  "ranks": 0,\n  "efficiency": { "matmul": 0 }\n}\n')
    error = run("plan", TINY, "--cluster", "bad.json", code=2).stderr
    for part in ["bad.json:2:3", 'did you mean "flops_per_second"?', "ranks is 0", "efficiency.matmul is 0"]:
        assert part in error, (part, error)
    assert "cannot be read" in run("plan", TINY, "--cluster", "none.json", code=2).stderr


with tempfile.TemporaryDirectory() as directory:
    os.chdir(directory)
    test_this_machine()
    test_described_machines()
    test_bad_descriptions()
print("plan_test: ok")
