#!/usr/bin/env python3
"""How the speed of training scales: tokens/s against tokens per step, experts, sequence length and threads, beside the least
time of the cost model, as a table and an SVG.

usage: scaling_plot.py [--only LIST] [--seconds N] [--quick] [--switchyard PROGRAM] [--results FOLDER]

Each point is `bench step` on the shape of configs/bench_small_cpu.json with one key changed. The limit beside it is
`least_seconds` of `plan`, from the FMA peak and the read rate measured just before. A point below 60 % of the mean of its
neighbours is marked. --quick takes three points of each curve.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONFIG = os.path.join(ROOT, "configs", "bench_small_cpu.json")
BELOW = 0.6  # of the neighbours
CURVES = {
    "tokens per step": [256, 512, 1024, 2048, 4096, 8192, 16384],
    "experts": [1, 2, 4, 8, 16, 32, 64, 128, 256],
    "sequence length": [64, 128, 256, 512, 1024, 2048, 4096],
    "threads": [1, 2],
}


def settings(curve, x):
    """(keys to set, threads)"""
    if curve == "tokens per step":
        return {"train.batch_tokens": x}, 2
    if curve == "experts":
        return {"train.batch_tokens": 2048, "model.num_experts": x, "model.num_experts_per_tok": min(2, x)}, 2
    if curve == "sequence length":
        return {"train.seq_len": x, "model.max_position_embeddings": x, "train.batch_tokens": 4 * max(x, 1024)}, 2
    return {"train.batch_tokens": 2048}, x


def switchyard(program, *arguments):
    result = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"switchyard {' '.join(map(str, arguments))}: {result.stderr}")
    return json.loads(result.stdout)


def measure(program, curve, x, seconds):
    keys, threads = settings(curve, x)
    common = [CONFIG, "--threads", threads, "--json"]
    for key, value in keys.items():
        common += ["--set", f"{key}={value}"]
    plan = switchyard(program, "plan", *common)
    steps = max(3, min(500, int(seconds / plan["step_seconds"])))
    bench = switchyard(program, "bench", "step", *common, "--steps", steps)
    tokens = bench["tokens_per_second"] * bench["step_seconds"]
    return {"x": x, "measured": bench["tokens_per_second"], "planned": plan["tokens_per_second"],
            "limit": tokens / plan["least_seconds"], "fraction": bench["fraction_of_peak"], "load": os.getloadavg()[0]}


def mark_outliers(points):
    for i, point in enumerate(points):
        near = [points[j]["measured"] for j in (i - 1, i + 1) if 0 <= j < len(points)]
        point["outlier"] = len(near) > 0 and point["measured"] < BELOW * sum(near) / len(near)


def svg(curves):
    """One panel a curve, x in powers of two; measured as a line with dots, the limit dashed."""
    width, height, margin = 420, 280, 56
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * 2}" height="{height * ((len(curves) + 1) // 2)}" '
             'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>']
    for number, (curve, points) in enumerate(curves.items()):
        left, top = number % 2 * width, number // 2 * height
        most = max(max(p["limit"], p["measured"]) for p in points) * 1.05

        def place(i, value):
            x = left + margin + i * (width - 1.5 * margin) / max(1, len(points) - 1)
            return x, top + height - margin - value / most * (height - 2 * margin)
        for part in (0, 0.25, 0.5, 0.75, 1):
            y = place(0, part * most)[1]
            parts.append(f'<line x1="{left + margin}" x2="{left + width - margin / 2}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{left + margin - 4}" y="{y + 4:.1f}" text-anchor="end">{part * most / 1000:.1f}k</text>')
        for key, style in (("limit", 'stroke="#888" stroke-dasharray="5 4"'), ("measured", 'stroke="#0b62a4" stroke-width="2"')):
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(i, p[key]) for i, p in enumerate(points)))
            parts.append(f'<polyline points="{line}" fill="none" {style}/>')
        for i, point in enumerate(points):
            x, y = place(i, point["measured"])
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{"#c0392b" if point["outlier"] else "#0b62a4"}"/>')
            parts.append(f'<text x="{x:.1f}" y="{top + height - margin + 16}" text-anchor="middle">{point["x"]}</text>')
        parts.append(f'<text x="{left + width / 2}" y="{top + height - 14}" text-anchor="middle">{curve}</text>')
        parts.append(f'<text x="{left + margin}" y="{top + 24}">tokens/s: measured, and at the limit (dashed)</text>')
    return "\n".join(parts + ["</svg>"]) + "\n"


def table(curves, command):
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    loads = [p["load"] for points in curves.values() for p in points]
    lines = ["# Speed of training against what a step is made of", "",
             f"Date {datetime.date.today()}, commit {commit}, {len(os.sched_getaffinity(0))} processors, load average "
             f"{min(loads):.1f} to {max(loads):.1f} while it ran. Made by `{command}` on the shape of `bench_small_cpu`; 2 threads, "
             "2,048 tokens a step and 8 experts where nothing else is said. The limit is arithmetic or memory, whichever takes "
             "longer, op by op, at the peak and the read rate measured before each point.", ""]
    for curve, points in curves.items():
        lines += [f"| {curve} | tokens/s | planned | at the limit | of the limit | of FMA peak | |", "|---|---|---|---|---|---|---|"]
        for p in points:
            lines.append(f"| {p['x']} | {p['measured']:.0f} | {p['planned']:.0f} | {p['limit']:.0f} | "
                         f"{p['measured'] / p['limit']:.2f} | {p['fraction']:.2f} | {'below its neighbours' if p['outlier'] else ''} |")
        lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", help="curves, by comma")
    parser.add_argument("--seconds", type=float, default=3, help="of each point, about")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--switchyard", default=os.path.join(ROOT, "build", "switchyard"))
    parser.add_argument("--results", help="folder for scaling.md and scaling.svg")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(CURVES)
    curves = {}
    for curve in chosen:
        if curve not in CURVES:
            parser.error(f"there is no curve \"{curve}\"; the curves are {', '.join(CURVES)}")
        xs = CURVES[curve]
        if options.quick and len(xs) > 3:
            xs = [xs[0], xs[len(xs) // 2], xs[-1]]
        curves[curve] = [measure(os.path.abspath(options.switchyard), curve, x, options.seconds) for x in xs]
        mark_outliers(curves[curve])
        print(f"{curve}: " + ", ".join(f"{p['x']}: {p['measured']:.0f}" for p in curves[curve]), file=sys.stderr, flush=True)
    arguments = ["--seconds", f"{options.seconds:g}"]
    arguments += ["--quick"] if options.quick else []
    arguments += ["--only", f"'{options.only}'"] if options.only else []
    text = table(curves, " ".join(["scripts/scaling_plot.py", *arguments]))
    print(text)
    if options.results:
        os.makedirs(options.results, exist_ok=True)
        open(os.path.join(options.results, "scaling.md"), "w", encoding="utf-8").write(text)
        open(os.path.join(options.results, "scaling.svg"), "w", encoding="utf-8").write(svg(curves))


if __name__ == "__main__":
    main()
