#!/usr/bin/env python3
"""Measures on a GPU what a training step of configs/bench_h200.json can be held against, and prints one table.

usage: gpu_facts.py [--results FILE] [--model-seconds N]

Needs torch and transformers, and a GPU; skipped with exit 77 without them. Rates are medians of timed runs on random
data: copies and dense products (the ceilings), grouped products by expert, attention, the costs of launches, waits and small
copies, two ranks of NCCL on one GPU, and a training step of transformers' own model of the same shape.
"""

import argparse
import datetime
import json
import os
import socket
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
T, D, F, E, K = 32768, 2048, 1024, 64, 8  # tokens of a pass, hidden, expert width, experts, experts per token
SEQ, HEADS, HEAD_DIM = 4096, 16, 128
rows = []


def row(name, value, note=""):
    rows.append((name, value, note))
    print(f"{name:<58} {value:>16}  {note}", flush=True)


def timed(run, repeats=20):
    """Median seconds by events; the first three runs do not count."""
    import torch

    times = []
    for i in range(repeats + 3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        if i >= 3:
            times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def attempt(name, measure):
    try:
        measure()
    except Exception as error:  # one figure less, not the table
        row(name, "failed", str(error).splitlines()[0][:120] if str(error) else type(error).__name__)


def ceilings():
    import torch

    big = torch.empty(2**30, dtype=torch.float32, device="cuda")
    other = torch.empty_like(big)
    row("device copy, read + written", f"{2 * big.nbytes / timed(lambda: other.copy_(big)) / 1e12:.2f} TB/s")
    del big, other
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "f32, no TF32")):
        size = 8192
        a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
        seconds = timed(lambda: a @ b, 10)
        row(f"dense product, {name}, 8192 x 8192 x 8192", f"{2 * size**3 / seconds / 1e12:.0f} TFLOP/s")
    for m, n, k, name in ((T, D, D, "projection"), (T, 50304, D, "head")):
        x, w = torch.randn(m, k, device="cuda", dtype=torch.bfloat16), torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
        seconds = timed(lambda: x @ w.T, 10)
        row(f"dense product, bf16, {name} {m} x {n} x {k}", f"{2 * m * n * k / seconds / 1e12:.0f} TFLOP/s")


def grouped():
    import torch

    R = T * K
    ends = torch.arange(1, E + 1, device="cuda", dtype=torch.int32) * (R // E)
    for n, k, name in ((F, D, "up"), (D, F, "down")):
        x, dy = torch.randn(R, k, device="cuda", dtype=torch.bfloat16), torch.randn(R, n, device="cuda", dtype=torch.bfloat16)
        w = torch.randn(E, n, k, device="cuda", dtype=torch.bfloat16)
        flops = 2 * R * n * k
        grouped_mm = torch._grouped_mm
        for what, run in (
            ("forward", lambda: grouped_mm(x, w.transpose(1, 2), offs=ends)),
            ("input gradient", lambda: grouped_mm(dy, w, offs=ends)),
            ("weight gradient", lambda: grouped_mm(dy.T, x, offs=ends)),
        ):
            label = f"grouped product, torch, bf16, {name} {what}, {R // E} rows"
            attempt(label, lambda: row(label, f"{flops / timed(run, 10) / 1e12:.0f} TFLOP/s"))
        xs, dys = x.view(E, -1, k), dy.view(E, -1, n)
        label = f"the same as batched products, {name} forward"
        attempt(label, lambda: row(label, f"{flops / timed(lambda: torch.bmm(xs, w.transpose(1, 2)), 10) / 1e12:.0f} TFLOP/s"))
        label = f"a loop of products on one stream, {name} forward"
        out = torch.empty(E, R // E, n, device="cuda", dtype=torch.bfloat16)

        def loop():
            for e in range(E):
                torch.mm(xs[e], w[e].T, out=out[e])

        attempt(label, lambda: row(label, f"{flops / timed(loop, 10) / 1e12:.0f} TFLOP/s"))

        def loop_weight():
            for e in range(E):
                torch.mm(dys[e].T, xs[e])

        label = f"a loop of products on one stream, {name} weight gradient"
        attempt(label, lambda: row(label, f"{flops / timed(loop_weight, 10) / 1e12:.0f} TFLOP/s"))


def attention():
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k, v = (
        torch.randn(T // SEQ, HEADS, SEQ, HEAD_DIM, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    flops = 2 * 2 * T * SEQ * HEADS * HEAD_DIM / 2
    for backend, name in ((SDPBackend.CUDNN_ATTENTION, "cuDNN"), (SDPBackend.FLASH_ATTENTION, "flash of torch")):

        def measure():
            with sdpa_kernel(backend):
                run = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
                row(f"attention, {name}, causal, forward", f"{flops / timed(run, 10) / 1e12:.0f} TFLOP/s")
                out = run()
                dout = torch.randn_like(out)
                back = lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True)
                row(f"attention, {name}, causal, backward", f"{2.5 * flops / timed(back, 10) / 1e12:.0f} TFLOP/s")

        attempt(f"attention, {name}", measure)


def costs():
    import torch

    x = torch.zeros(64, device="cuda")
    pinned = torch.empty(64 * 8, dtype=torch.float32).pin_memory()
    counts = torch.zeros(64 * 8, device="cuda")

    def repeated(run, count=2000):
        run()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            run()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / count * 1e6

    row("launch of a small kernel (torch)", f"{repeated(lambda: x.add_(1)):.1f} us")
    row("launch and wait", f"{repeated(lambda: (x.add_(1), torch.cuda.synchronize())):.1f} us")
    row("copy of 2 KiB to the host and wait",
        f"{repeated(lambda: (pinned.copy_(counts, non_blocking=True), torch.cuda.synchronize())):.1f} us")  # fmt: skip


def nccl_rank(rank, port):
    """One of two processes on one GPU."""
    import torch
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, NCCL_HOSTID=f"host{rank}")
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", rank=rank, world_size=2)
    x = torch.full((1 << 24,), float(rank + 1), device="cuda")
    dist.all_reduce(x)
    assert x[0].item() == 3.0 and x[-1].item() == 3.0
    out, send = torch.empty(1 << 24, device="cuda"), torch.full((1 << 24,), float(rank), device="cuda")
    dist.all_to_all_single(out, send)
    assert out[0].item() == 0.0 and out[-1].item() == 1.0
    seconds = []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        dist.all_to_all_single(out, send)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        print(json.dumps({"version": ".".join(map(str, torch.cuda.nccl.version())),
                          "seconds": statistics.median(seconds), "bytes": out.nbytes // 2}))  # fmt: skip
    dist.destroy_process_group()


def nccl():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [subprocess.Popen([sys.executable, os.path.abspath(__file__), "--nccl-rank", str(rank), port],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for rank in (0, 1)]  # fmt: skip
    outputs = []
    for process in ranks:
        try:
            outputs.append(process.communicate(timeout=60))
        except subprocess.TimeoutExpired:
            process.kill()
            outputs.append(process.communicate())
    if any(process.returncode for process in ranks):
        errors = [line for _, err in outputs for line in err.splitlines() if "rror" in line]
        raise RuntimeError(errors[-1] if errors else "a rank failed")
    result = json.loads(outputs[0][0].splitlines()[-1])
    row(f"NCCL {result['version']}, two ranks on one GPU (NCCL_HOSTID)", "works", "all-reduce, all-to-all: right values")
    row("all-to-all of 32 MiB each way between them", f"{result['bytes'] / result['seconds'] / 1e9:.2f} GB/s")


def model(seconds, compiled):
    import torch
    import transformers

    layers, tokens_per_pass = 8, 4 * SEQ
    config = transformers.OlmoeConfig(
        vocab_size=50304, hidden_size=D, intermediate_size=F, num_hidden_layers=layers, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, num_experts=E, num_experts_per_tok=K, max_position_embeddings=SEQ, use_cache=False,
        router_aux_loss_coef=0.01, output_router_logits=True, tie_word_embeddings=False)  # fmt: skip
    config._experts_implementation = "grouped_mm"
    with torch.device("cuda"):
        net = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
    net.train()
    tokens = torch.randint(0, 50304, (tokens_per_pass // SEQ, SEQ + 1), device="cuda")
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-4, fused=True)
    active = layers * (4 * D * D + D * E + 3 * D * F * K) + D * 50304
    flops = tokens_per_pass * (6 * active + 6 * layers * SEQ * D)  # causal: half of the products of attention
    for variant in ("as it is", "torch.compile") if compiled else ("as it is",):
        step_net = net if variant == "as it is" else torch.compile(net)

        def gradients():
            out = step_net(tokens[:, :-1])
            loss = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
            (loss + 0.01 * out.aux_loss).backward()

        def measure():
            deadline = time.monotonic() + seconds
            gradients()
            optimizer.step()
            times = []
            while len(times) < 8 and (time.monotonic() < deadline or len(times) < 3):
                optimizer.zero_grad(set_to_none=True)
                torch.cuda.synchronize()
                start = time.perf_counter()
                gradients()
                torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
            best = statistics.median(times)
            row(f"transformers {transformers.__version__}, grouped_mm, {variant}: forward + backward",
                f"{tokens_per_pass / best:.0f} tokens/s", f"{flops / best / 1e12:.0f} TFLOP/s, bf16 weights, passes of {tokens_per_pass}")  # fmt: skip

        attempt(f"transformers, {variant}", measure)
    row("  its fused AdamW step", f"{timed(optimizer.step, 5) * 1e3:.1f} ms", "bf16 weights and states")
    row("  its memory", f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "--nccl-rank":
        return nccl_rank(int(sys.argv[2]), sys.argv[3])
    parser = argparse.ArgumentParser(description="what a GPU can do at the shape of the benchmark")
    parser.add_argument("--results")
    parser.add_argument("--model-seconds", type=float, default=40, help="for each variant of the model")
    parser.add_argument("--compile", action="store_true", help="the model under torch.compile as well; minutes")
    options = parser.parse_args()
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        print(f"skipped: {error}")
        return sys.exit(77)
    if not torch.cuda.is_available():
        print("skipped: there is no GPU here")
        return sys.exit(77)
    device = torch.cuda.get_device_properties(0)
    head = (f"{datetime.date.today()}, {device.name}, {device.total_memory / 2**30:.0f} GiB, torch {torch.__version__}, "
            f"cuDNN {torch.backends.cudnn.version()}")  # fmt: skip
    print(head)
    for name, measure in (("ceilings", ceilings), ("grouped products", grouped), ("attention", attention),
                          ("costs", costs), ("NCCL", nccl), ("model", lambda: model(options.model_seconds, options.compile))):  # fmt: skip
        attempt(name, measure)
        torch.cuda.empty_cache()
    if options.results:
        with open(options.results, "w", encoding="utf-8") as file:
            file.write(f"# What a GPU does at the shape of `bench_h200`\n\n{head}; `scripts/gpu_facts.py`\n\n| | | |\n|---|---|---|\n")
            file.writelines(f"| {name.strip()} | {value} | {note} |\n" for name, value, note in rows)


if __name__ == "__main__":
    main()
