#!/usr/bin/env python3
"""What each way of balancing experts reaches on a skewed mix of sources: evenness, held-out loss, speed.

usage: balance_table.py [--steps N] [--threads N] [--only LIST] [--switchyard PROGRAM] [--results FILE]

The sources of configs/debian_local.json, nine tenths of the tokens from one of them, a small model of 16 experts of which
each token takes two. Evenness is max/mean of the worst layer over the last quarter of the run, beside what chance gives at
most (`switchyard experts`). Capacity leaves the choices of the router as they are and drops what an expert has no place for:
its rows are computed on at most `capacity` times the mean, of a mean without the dropped ones. Speed is that of the fastest
tenth of the steps, so that other programs on the machine matter less.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
METHODS = {
    "none": {"aux_loss_coef": 0},
    "loss by granule, 0.01": {"aux_loss_coef": 0.01},
    "loss by granule, 0.1": {"aux_loss_coef": 0.1},
    "loss by sequence, 0.01": {"aux_loss_coef": 0.01, "aux_loss_scope": "sequence"},
    "loss by sequence, 0.1": {"aux_loss_coef": 0.1, "aux_loss_scope": "sequence"},
    "loss by global batch, 0.01": {"aux_loss_coef": 0.01, "aux_loss_scope": "global"},
    "loss by global batch, 0.1": {"aux_loss_coef": 0.1, "aux_loss_scope": "global"},
    "none, sigmoid scores": {"aux_loss_coef": 0, "scoring_func": "sigmoid"},
    "expert bias, 0.001, sigmoid scores": {"aux_loss_coef": 0, "bias_update_rate": 0.001, "scoring_func": "sigmoid"},
    "expert bias, 0.01, sigmoid scores": {"aux_loss_coef": 0, "bias_update_rate": 0.01, "scoring_func": "sigmoid"},
    "capacity 1.0": {"aux_loss_coef": 0, "capacity_factor": 1.0},
    "capacity 1.25, loss by granule, 0.01": {"aux_loss_coef": 0.01, "capacity_factor": 1.25},
}


def switchyard(program, *arguments):
    result = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"switchyard {' '.join(map(str, arguments))}: {result.stderr}")
    return json.loads(result.stdout)


def base_config(steps):
    config = json.load(open(os.path.join(ROOT, "configs/debian_local.json"), encoding="utf-8"))
    del config["$schema"], config["checkpoint"], config["eval"]
    config["model"] |= {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_experts": 16,
                        "moe_intermediate_size": 64, "max_position_embeddings": 64}  # fmt: skip
    for source in config["data"]["sources"]:
        source["max_bytes"] = "1 MB"
        source["weight"] = 27 if source["name"] == "python" else 1
    config["train"] = {"seq_len": 64, "batch_tokens": 2048, "granules": 4, "stop": {"steps": steps}}
    config["optim"]["warmup"] = min(30, steps // 4)
    config["log"] = {"every": 10}
    return config


def method_row(program, name, changes, options):
    config = base_config(options.steps)
    router = {"z_loss_coef": 0.001} | changes
    config["model"]["scoring_func"] = router.pop("scoring_func", "softmax")
    config["model"]["router"] = router
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        json.dump(config, open("config.json", "w"))
        switchyard(program, "train", "config.json", "--run-dir", "run", "--json", "--threads", options.threads)
        loss = switchyard(program, "eval", "run", "--json", "--no-baselines", "--threads", options.threads)["sets"][0]["loss"]
        load = switchyard(program, "experts", "run", "--json")
        speeds = [json.loads(line)["tokens_per_second"] for line in open("run/metrics.jsonl")]
        os.chdir(ROOT)
    worst = max(load["layers"], key=lambda layer: layer["max_over_mean"])
    chance = worst["max_over_mean_by_chance"]
    capacity = changes.get("capacity_factor", float("inf"))
    computed = max(min(layer["max_over_mean"], capacity) / (1 - layer["drop_rate"]) for layer in load["layers"])
    reached = "yes" if worst["max_over_mean"] <= 1.2 * chance else f"no, {worst['max_over_mean'] / chance:.2f} x"
    return (f"| {name} | {worst['max_over_mean']:.3f} | {chance:.3f} | {reached} | {load['dead']} | {100 * load['drop_rate']:.1f} % | "
            f"{computed:.2f} | {loss:.4f} | {statistics.quantiles(speeds, n=10)[-1] / 1e3:.0f} k |")  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", help="names of methods that contain one of these, comma-separated")
    parser.add_argument("--switchyard", default=os.path.join(ROOT, "build", "switchyard"))
    parser.add_argument("--results")
    options = parser.parse_args()
    program, results = os.path.abspath(options.switchyard), options.results and os.path.abspath(options.results)
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()  # with its commit
    lines = ["# Balancing", "",
             f"{datetime.date.today()}, {version}, `scripts/balance_table.py --steps {options.steps} --threads {options.threads}`: 2 layers of 16 experts, "
             f"top-2, nine tenths of the tokens from one source, {options.threads} thread{'s' if options.threads > 1 else ''}. "
             "max/mean of the worst layer in the last quarter of the run; computed: the same after drops.", "",
             "| method | max/mean | chance | within 1.2 x chance | dead | dropped | computed, at most | held-out loss | tokens/s |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    wanted = options.only.split(",") if options.only else [""]
    for name, changes in METHODS.items():
        if not any(part in name for part in wanted):
            continue
        lines.append(method_row(program, name, changes, options))
        print(lines[-1], flush=True)
        if results:
            open(results, "w", encoding="utf-8").write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
