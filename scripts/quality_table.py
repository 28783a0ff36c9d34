#!/usr/bin/env python3
"""What accuracy costs: loss against active parameters, experts, top-k and time, dense beside mixtures, on one text.

usage: quality_table.py TEXT [--steps N] [--seeds N] [--threads N] [--only LIST] [--switchyard PROGRAM] [--results FILE]

configs/shakespeare.json (nanoGPT's CPU recipe: 4 layers, width 128, 4 heads, block 64, batch 12, 2,000 steps) and variants
of its FFN. The loss is that of the last tenth of the text in windows of 64, every token predicted once, nats per byte, mean
over the seeds. The table is written after each variant.
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
# name -> keys of model that differ from configs/shakespeare.json
VARIANTS = {
    "8 experts top-2 of 160": {},
    "dense of 512 (nanoGPT's FFN)": {"num_experts": 0, "intermediate_size": 512},
    "dense of 320, as many active": {"num_experts": 0, "intermediate_size": 320},
    "8 experts top-1 of 320": {"num_experts_per_tok": 1, "moe_intermediate_size": 320, "norm_topk_prob": False},
    "4 experts top-2 of 160": {"num_experts": 4},
    "16 experts top-2 of 160": {"num_experts": 16},
    "32 experts top-4 of 80": {"num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 80},
}


def switchyard(program, *arguments):
    result = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"switchyard {' '.join(map(str, arguments))}: {result.stderr}")
    return json.loads(result.stdout)


def parameters(model):
    """(total, active), without embeddings and norms."""
    width = model["hidden_size"]
    attention = 4 * width * width
    experts = model["num_experts"]
    if experts == 0:
        ffn = 3 * width * model["intermediate_size"]
        return tuple(model["num_hidden_layers"] * (attention + ffn) for _ in range(2))
    expert, router = 3 * width * model["moe_intermediate_size"], width * experts
    return tuple(model["num_hidden_layers"] * (attention + router + n * expert) for n in (experts, model["num_experts_per_tok"]))


def run(program, config, seed, options):
    config = json.loads(json.dumps(config)) | {"seed": seed}
    json.dump(config, open("config.json", "w"))
    name = f"run-{seed}"
    done = switchyard(program, "train", "config.json", "--run-dir", name, "--json", "--threads", options.threads)
    loss = switchyard(program, "eval", name, "--json", "--no-baselines", "--threads", options.threads)["sets"][0]["loss"]
    return loss, done["tokens"] / done["tokens_per_second"]


def variant_row(program, base, name, changes, options):
    config = json.loads(json.dumps(base))
    config["model"] |= changes
    if config["model"]["num_experts"] == 0:
        del config["model"]["router"]
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        runs = [run(program, config, seed, options) for seed in range(1, options.seeds + 1)]
        os.chdir(ROOT)
    losses, (total, active) = [loss for loss, _ in runs], parameters(config["model"])
    spread = f"{min(losses):.3f} to {max(losses):.3f}" if len(losses) > 1 else ""
    return (f"| {name} | {total / 1e6:.2f} M | {active / 1e6:.2f} M | {statistics.mean(losses):.4f} | {spread} | "
            f"{statistics.mean(seconds for _, seconds in runs):.0f} s |")  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", help="names of variants that contain one of these, comma-separated")
    parser.add_argument("--switchyard", default=os.path.join(ROOT, "build", "switchyard"))
    parser.add_argument("--results")
    options = parser.parse_args()
    program, results = os.path.abspath(options.switchyard), options.results and os.path.abspath(options.results)
    base = json.load(open(os.path.join(ROOT, "configs/shakespeare.json"), encoding="utf-8"))
    del base["$schema"], base["eval"], base["checkpoint"]
    base["data"]["sources"][0]["files"] = os.path.abspath(options.text)
    base["train"]["stop"]["steps"] = options.steps
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = ["# Quality", "",
             f"{datetime.date.today()}, commit {commit}, `scripts/quality_table.py` on {os.path.basename(options.text)}: "
             f"{options.steps} steps, {options.seeds} seed{'s' if options.seeds > 1 else ''}, {options.threads} "
             f"thread{'s' if options.threads > 1 else ''}.", "",
             "| FFN | parameters | active | held-out loss | over the seeds | training |", "|---|---|---|---|---|---|"]  # fmt: skip
    wanted = options.only.split(",") if options.only else [""]
    for name, changes in VARIANTS.items():
        if not any(part in name for part in wanted):
            continue
        lines.append(variant_row(program, base, name, changes, options))
        print(lines[-1], flush=True)
        if results:
            open(results, "w", encoding="utf-8").write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
