#!/usr/bin/env python3
"""`bench ops --device cuda`: the ops of a step on a device, and each way of its grouped products.

usage: bench_cuda_test.py SWITCHYARD REPOSITORY
"""

import json
import os
import subprocess
import sys

SWITCHYARD, ROOT = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
SMALL = ["model.num_hidden_layers=1", "model.hidden_size=16", "model.moe_intermediate_size=16", "train.seq_len=8",
         "train.batch_tokens=64", "train.micro_batch=2"]
WAYS = ["one_stream", "streams", "batched"]


def bench_ops(*arguments):
    sets = [argument for value in SMALL for argument in ("--set", value)]
    command = [SWITCHYARD, "bench", "ops", f"{ROOT}/configs/tiny.json", "--device", "cuda", "--seconds", "0.1", *sets]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True)
    if "no usable GPU" in result.stderr:
        print("skipped: there is no usable GPU here")
        sys.exit(77)
    assert result.returncode == 0, (arguments, result.returncode, result.stdout, result.stderr)
    return result.stdout


def test_json():
    result = json.loads(bench_ops("--json"))
    assert len(result["ops"]) > 30, result
    grouped = result["grouped_products"]
    assert grouped["experts"] == 4 and grouped["rows"] > 0 and grouped["in_use"] in WAYS, grouped
    assert [p["op"] for p in grouped["products"]] == [
        f"experts {projection} {kind}" for projection in ("gate_proj and up_proj", "down_proj")
        for kind in ("forward", "input gradient", "weight gradient")], grouped
    for product in grouped["products"]:
        seconds = product["seconds"]
        assert list(seconds) == WAYS and all(s > 0 for s in seconds.values()), product
        assert seconds[product["fastest"]] == min(seconds.values()), product


def test_table():
    text = bench_ops("--set", "train.precision=bf16")
    table = text[text.index("\ngrouped products"):].splitlines()[1:]
    assert table[1].count("*") == 1 and all(way in table[1] for way in WAYS), table
    assert len(table) == 8 and all(line.split()[-1] in WAYS for line in table[2:]), table
    assert [("not bf16 to f32" in line) for line in table[2:]] == [False, False, True] * 2, table


test_json()
test_table()
print("bench_cuda_test: ok")
