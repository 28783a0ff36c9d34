#!/usr/bin/env python3
"""Measures training steps of Switchyard and of PyTorch with transformers in turns, and prints the ratio.

usage: bench_vs_torch.py [--rounds N] [--threads N] [--variants LIST] [--results FILE] [CONFIG...]

Default configs: the three of configs/bench_*_cpu.json. Needs torch, transformers and numpy from PyPI; skipped with exit 77
without them. PyTorch computes the same model (transformers' Mixtral class, SDPA attention) in fp32 on a batch of the same
shape in one pass, with fused AdamW, clipping and the auxiliary loss. Variants: eager (experts in a loop),
default (grouped_mm, what transformers 5 takes), compiled (the same under torch.compile). Each variant takes turns with
Switchyard, one computing at a time, and its ratio is to Switchyard's steps in the same turns; a variant has the memory of the
machine beside Switchyard for itself. Figures are medians, the FMA peak is Switchyard's measurement between its steps.
"""

import argparse
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONFIGS = [f"configs/{name}.json" for name in ("bench_cpu", "bench_fine_cpu", "bench_small_cpu")]
VARIANTS = {"eager": "eager", "default": "grouped_mm", "compiled": "grouped_mm"}


def serve(path, variant, threads):
    """In a process of its own: one step of PyTorch for each line on stdin, its seconds on stdout."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = json.load(open(path, encoding="utf-8"))
    shape, train = config["model"], config["train"]
    vocabulary = shape.get("vocab_size", 257)
    model_config = transformers.MixtralConfig(
        vocab_size=vocabulary, hidden_size=shape["hidden_size"], intermediate_size=shape["moe_intermediate_size"],
        num_hidden_layers=shape["num_hidden_layers"], num_attention_heads=shape["num_attention_heads"],
        num_key_value_heads=shape.get("num_key_value_heads", shape["num_attention_heads"]),
        num_local_experts=shape["num_experts"], num_experts_per_tok=shape["num_experts_per_tok"],
        max_position_embeddings=shape["max_position_embeddings"], sliding_window=None, use_cache=False,
        router_aux_loss_coef=shape["router"]["aux_loss_coef"], output_router_logits=True, tie_word_embeddings=False,
    )  # fmt: skip
    model_config._experts_implementation = VARIANTS[variant]
    model = transformers.AutoModelForCausalLM.from_config(model_config, attn_implementation="sdpa").float()
    model.train()
    step_model = torch.compile(model) if variant == "compiled" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    sequences = train["batch_tokens"] // train["seq_len"]
    tokens = torch.randint(0, vocabulary, (sequences, train["seq_len"] + 1))
    for _ in sys.stdin:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        out = step_model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), tokens[:, 1:].flatten())
        (loss + model_config.router_aux_loss_coef * out.aux_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"seconds": seconds, "peak_kib": peak, "loss": loss.item()}), flush=True)


class Torch:
    def __init__(self, path, variant, threads):
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "--serve", path, variant, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)})  # fmt: skip
        self.seconds, self.peak_kib = [], 0

    def step(self, counts=True):
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("PyTorch's process ended")
        result = json.loads(line)
        self.peak_kib = result["peak_kib"]
        if counts:
            self.seconds.append(result["seconds"])

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def switchyard_step(path, threads, steps):
    command = [os.path.join(ROOT, "build/switchyard"), "bench", "step", path, "--json"]
    process = subprocess.Popen(
        command + ["--threads", str(threads), "--steps", str(steps)], stdout=subprocess.PIPE, text=True)  # fmt: skip
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)} failed")
    return json.loads(out.splitlines()[-1]), usage.ru_maxrss


def take_turns(path, variant, options):
    """Both sides' measurements, or None where PyTorch does not run."""
    torch = Torch(os.path.join(ROOT, path), variant, options.threads)
    ours = []
    try:
        for _ in range(2):  # compiles, and fills caches
            torch.step(counts=False)
        for _ in range(options.rounds):
            ours.append(switchyard_step(os.path.join(ROOT, path), options.threads, 3))
            torch.step()
    except (RuntimeError, BrokenPipeError):
        print(f"{path}: PyTorch {variant} does not run here", file=sys.stderr)
        return None
    torch.end()
    return ours, torch


def compare(path, options):
    turns = {variant: take_turns(path, variant, options) for variant in options.variants.split(",")}
    turns = {variant: turn for variant, turn in turns.items() if turn is not None}
    all_ours = [measured for ours, _ in turns.values() for measured, _ in ours]
    peak_kib = max(kib for ours, _ in turns.values() for _, kib in ours)
    tokens = json.load(open(os.path.join(ROOT, path), encoding="utf-8"))["train"]["batch_tokens"]
    peak = statistics.median(m["peak_gflops"] for m in all_ours)
    gflops = statistics.median(m["model_gflops"] for m in all_ours)
    seconds = statistics.median(m["step_seconds"] for m in all_ours)
    rows = [("Switchyard", seconds, gflops, gflops / peak, "", peak_kib)]
    for variant, (ours, torch) in turns.items():
        theirs = statistics.median(torch.seconds)
        rate = gflops * seconds / theirs
        ratio = theirs / statistics.median(m["step_seconds"] for m, _ in ours)
        rows.append((f"PyTorch {variant}", theirs, rate, rate / peak, f"{ratio:.2f} x", torch.peak_kib))
    lines = [f"### {os.path.basename(path)}: FMA peak {peak:.0f} GFLOP/s ({all_ours[0]['cpu']}), {options.rounds} rounds", ""]
    lines += ["| | s/step | tokens/s | model GFLOP/s | of peak | Switchyard is faster by | peak memory |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, s, rate, fraction, ratio, kib in rows:
        lines.append(f"| {name} | {s:.3f} | {tokens / s:.0f} | {rate:.1f} | {fraction:.2f} | {ratio} | {kib / 2**20:.2f} GiB |")
    return "\n".join(lines) + "\n"


def main():
    if len(sys.argv) == 5 and sys.argv[1] == "--serve":
        return serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    parser = argparse.ArgumentParser(description="training steps of Switchyard and PyTorch in turns")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--results")
    parser.add_argument("configs", nargs="*", default=CONFIGS)
    options = parser.parse_args()
    try:
        import torch
        import transformers
    except ImportError as error:
        print(f"skipped: {error}; pip install torch transformers numpy")
        return sys.exit(77)
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    text = (f"{datetime.date.today()}, commit {commit}, `scripts/bench_vs_torch.py`, {options.threads} threads, "
            f"torch {torch.__version__}, transformers {transformers.__version__}\n")  # fmt: skip
    print(text)
    for path in options.configs:
        table = compare(path, options)
        print(table, flush=True)
        text += "\n" + table
    if options.results:
        with open(options.results, "w", encoding="utf-8") as file:
            file.write("# A training step beside PyTorch\n\n" + text)


if __name__ == "__main__":
    main()
