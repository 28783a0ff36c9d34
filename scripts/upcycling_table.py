#!/usr/bin/env python3
"""Is a mixture made of a dense model better than training on? A table for one text.

usage: upcycling_table.py [TEXT] [--steps N] [--minutes M] [--switchyard PROGRAM] [--results FILE]

Trains a dense model on TEXT (default: the text of configs/debian_local.json), then three ways for the same time from there
or from nothing: the dense model on, 8 experts top-2 that begin as copies of its FFN, and the same mixture from random
weights. Losses are those of held-out text: the last tenth of TEXT, or what the demo's config holds out.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODEL = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 64}
DENSE = {"num_experts": 0, "intermediate_size": 256}
MIXTURE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "norm_topk_prob": True,
           "router": {"aux_loss_coef": 0.01}}  # fmt: skip


def switchyard(program, *arguments):
    result = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"switchyard {' '.join(map(str, arguments))}: {result.stderr}")
    return json.loads(result.stdout)


def data_of(text):
    if text:
        return {"sources": [{"name": "text", "files": os.path.abspath(text)}], "held_out": {"fraction": 0.1, "split": "tail"}}
    return json.load(open(os.path.join(ROOT, "configs", "debian_local.json"), encoding="utf-8"))["data"]


def run(program, name, data, model, stop, init_from=None, still=False):
    """Trains and evaluates: (held-out loss, steps, tokens per second)."""
    optimizer = {"lr": 1e-30 if still else 2e-3, "min_lr": 0, "schedule": "constant", "warmup": 0 if still else 20}
    config = {"version": 1, "name": name, "model": {**MODEL, **model},
              "data": data,
              "train": {"seq_len": 64, "batch_tokens": 768, "granules": 4, "stop": stop},
              "optim": optimizer | ({"weight_decay": 0} if still else {})}  # fmt: skip
    if init_from:
        config["train"]["init_from"] = init_from
    json.dump(config, open(name + ".json", "w"))
    done = switchyard(program, "train", name + ".json", "--run-dir", name, "--json")
    held_out = switchyard(program, "eval", name, "--json", "--no-baselines")["sets"][0]["loss"]
    return held_out, done["step"], done["tokens_per_second"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("text", nargs="?")
    parser.add_argument("--steps", type=int, default=500, help="of the dense model before")
    parser.add_argument("--minutes", type=float, default=1.5, help="of each way from there")
    parser.add_argument("--switchyard", default=os.path.join(ROOT, "build", "switchyard"))
    parser.add_argument("--results")
    options = parser.parse_args()
    program, text = os.path.abspath(options.switchyard), data_of(options.text)
    named = os.path.basename(options.text) if options.text else "the demo's text"
    stop = {"time": f"{options.minutes * 60:.0f} s"}
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        before = run(program, "before", text, DENSE, {"steps": options.steps})
        right_after = run(program, "right-after", text, MIXTURE, {"steps": 1}, "before", still=True)
        ways = [("dense, trained on", run(program, "dense", text, DENSE, stop, "before")),
                ("upcycled to 8 experts top-2", run(program, "upcycled", text, MIXTURE, stop, "before")),
                ("8 experts top-2 from random weights", run(program, "fresh", text, MIXTURE, stop))]  # fmt: skip
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = ["# Upcycling beside training on", "",
             f"{datetime.date.today()}, commit {commit}, `scripts/upcycling_table.py` on {named}: "
             f"a dense model of width 128 with 4 layers after {options.steps} steps of 768 tokens "
             f"has a held-out loss of {before[0]:.4f} nats per byte; the mixture made of it, before its first step, "
             f"{right_after[0]:.4f} (relative difference {abs(right_after[0] / before[0] - 1):.1e}).", "",
             f"| from there, {options.minutes:g} min each | steps | tokens/s | held-out loss |", "|---|---|---|---|"]  # fmt: skip
    lines += [f"| {name} | {steps} | {speed:.0f} | {loss:.4f} |" for name, (loss, steps, speed) in ways]
    table = "\n".join(lines) + "\n"
    print(table)
    if options.results:
        open(os.path.join(ROOT, options.results), "w", encoding="utf-8").write(table)
    if abs(right_after[0] / before[0] - 1) > 1e-6:
        sys.exit("the mixture does not begin with the dense model's loss")


if __name__ == "__main__":
    main()
