#!/usr/bin/env python3
"""Round trip of tiny models between transformers and Switchyard, for all five families, and a table of what was found.

usage: check_huggingface.py [--switchyard PROGRAM] [--results FILE] [--fixtures DIRECTORY]

Needs torch, transformers and safetensors from PyPI; skipped with exit 77 without them. For each family a model with random
weights is written by transformers and

  evaluated        loss of a text, relative difference                                          at most 1e-6
  continued        64 greedy tokens; the seed is the first whose top two logits are never closer than 1e-3
  trained          3 AdamW steps on one batch, every weight's relative distance to PyTorch's     at most 1e-5
  exported         transformers reloads it without a missing or unexpected weight, same logits   at most 1e-5
  opened           the checkpoint directory itself, as it is                                     likewise
  passed through   export of the import, in fp32, bf16, fp16, and in shards                      bit for bit
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile

try:
    import safetensors.torch
    import torch
    import transformers
except ImportError as error:
    print(f"skipped: {error}; pip install torch transformers safetensors")
    sys.exit(77)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LENGTH, NEW_TOKENS, MARGIN, AUX_LOSS_COEF = 48, 64, 1e-3, 0.02
TEXT = (b"Whatever happens, the last step that was reported durable is there, whole; and the text goes on for a while, so that "
        b"there are several windows of it, and the last one is shorter than the others.\n")  # fmt: skip
SHAPE = dict(
    vocab_size=256, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=LENGTH * 2, attention_dropout=0.0, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    tie_word_embeddings=False)  # fmt: skip
MIXTURE = dict(router_aux_loss_coef=AUX_LOSS_COEF, num_experts_per_tok=2)
FAMILIES = {
    "mixtral": lambda: transformers.MixtralConfig(
        **SHAPE, **MIXTURE, num_local_experts=4, intermediate_size=20, sliding_window=None),
    "olmoe": lambda: transformers.OlmoeConfig(
        **{**SHAPE, "num_key_value_heads": 4}, **MIXTURE, num_experts=4, intermediate_size=20, norm_topk_prob=False),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **SHAPE, **MIXTURE, num_experts=4, moe_intermediate_size=12, intermediate_size=28, head_dim=6,
        norm_topk_prob=True, mlp_only_layers=[1]),
    "llama": lambda: transformers.LlamaConfig(**{**SHAPE, "tie_word_embeddings": True}, intermediate_size=28),
    "qwen3": lambda: transformers.Qwen3Config(**SHAPE, intermediate_size=28, head_dim=6),
}  # fmt: skip


def command(*arguments):
    result = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"switchyard {' '.join(map(str, arguments))}: {result.stderr}")
    return json.loads(result.stdout) if "--json" in arguments else result.stdout


def build(config, seed, kind=torch.float32):
    """A model whose weights are numbers of `kind`."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # large enough that logits differ
            value = 1 + 0.1 * torch.randn_like(parameter) if parameter.dim() == 1 else 0.3 * torch.randn_like(parameter)
            parameter.copy_(value.to(kind))
    return model


def with_clear_margins(make_config, kind=torch.float32):
    """The first model whose greedy tokens hang on no rounding."""
    for seed in range(1, 500):
        model = build(make_config(), seed, kind)
        tokens, margin = greedy(model)
        if margin > MARGIN:
            return model, seed, tokens, margin
    sys.exit(f"{make_config().model_type}: no seed below 500 has every margin above {MARGIN}")


def greedy(model):
    """64 tokens after the first of TEXT, and the smallest distance of the best two logits."""
    tokens, margin = list(TEXT[:8]), float("inf")
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            best = model(torch.tensor([tokens]), use_cache=False).logits[0, -1].topk(2)
            margin = min(margin, (best.values[0] - best.values[1]).item())
            tokens.append(best.indices[0].item())
    return tokens[8:], margin


def mean_loss(model, length):
    tokens, total = torch.tensor(list(TEXT)), 0.0
    with torch.no_grad():
        for begin in range(0, len(TEXT) - 1, length):
            window = tokens[begin : begin + length + 1]
            logits = model(window[None, :-1], use_cache=False).logits[0].double()
            total += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
    return total / (len(TEXT) - 1)


def train(model, is_mixture):
    model.train()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}], lr=1e-4, betas=(0.9, 0.95), eps=1e-8)
    tokens = torch.tensor([list(TEXT[: LENGTH + 1])])
    for _ in range(3):
        optimizer.zero_grad()
        out = model(tokens[:, :-1], use_cache=False, **({"output_router_logits": True} if is_mixture else {}))
        loss = torch.nn.functional.cross_entropy(out.logits[0], tokens[0, 1:])
        (loss + AUX_LOSS_COEF * out.aux_loss if is_mixture else loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def tensors_of(directory):
    tensors = {}
    for name in sorted(os.listdir(directory)):
        if name.startswith("model") and name.endswith(".safetensors"):
            tensors |= safetensors.torch.load_file(os.path.join(directory, name))
    return tensors


def logits_difference(directory, model):
    """How far the directory, opened by transformers, is from the model; every weight has to be found."""
    opened, info = transformers.AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", output_loading_info=True)
    missing = {key: list(value) for key, value in info.items() if value and key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if missing:
        sys.exit(f"{directory}: {missing}")
    tokens = torch.tensor([list(TEXT[:LENGTH])])
    with torch.no_grad():
        a, b = opened.float().eval()(tokens).logits, model(tokens).logits
    return ((a - b).abs().max() / b.abs().max()).item()


def passed_through(model, place):
    """Export of an import is what it was, bit for bit, however it was stored."""
    for name, kind, options in (("fp32", torch.float32, {}), ("bf16", torch.bfloat16, {}), ("fp16", torch.float16, {}),
                                ("shards", torch.float32, {"max_shard_size": "20KB"})):  # fmt: skip
        source, copy = os.path.join(place, "as-" + name), os.path.join(place, "copy-" + name)
        model.to(kind).save_pretrained(source, **options)
        model.float()
        command("export", source, "--to", "hf", copy, "--dtype", "bf16" if name == "bf16" else "f32")
        theirs, ours = tensors_of(source), tensors_of(copy)
        if name == "fp16":  # stored here as fp32, which holds every value of it
            theirs = {key: value.float() for key, value in theirs.items()}
        if theirs.keys() != ours.keys() or any(not torch.equal(theirs[key], ours[key]) or theirs[key].dtype != ours[key].dtype for key in theirs):
            return False
        if name == "shards" and len([f for f in os.listdir(source) if f.endswith(".safetensors")]) < 2:
            sys.exit("the sharded directory has one file")
    return True


def round_trip(family, make_config, place):
    model, seed, expected, margin = with_clear_margins(make_config)
    source = os.path.join(place, family)
    model.save_pretrained(source)
    text, batch = os.path.join(place, "text"), os.path.join(place, "batch")
    open(text, "wb").write(TEXT)
    open(batch, "wb").write(TEXT[: LENGTH + 1])
    window = SHAPE["max_position_embeddings"]
    ours = command("eval", source, "--data", text, "--json")["sets"][0]["loss"]
    loss = mean_loss(model, window)
    row = {"family": family, "seed": seed, "margin": margin, "loss": abs(ours / loss - 1)}
    made = command("generate", source, "-p", TEXT[:8].decode(), "--max-tokens", NEW_TOKENS, "--temperature", 0, "--json")["tokens"]
    row["tokens"] = sum(a == b for a, b in zip(made, expected)) if len(made) == len(expected) else 0

    config, run, exported = source + ".json", source + "-run", source + "-exported"
    command("import", source, "-o", config, "--data", batch)
    sets = [f"train.seq_len={LENGTH}", f"train.batch_tokens={LENGTH}", "train.granules=1", "data.held_out.fraction=0",
            "optim.lr=1e-4", "optim.schedule=constant", "optim.warmup=0", "optim.grad_clip=1.0"]  # fmt: skip
    command("train", config, "--run-dir", run, "--steps", 3, "--overfit-batch", "--json", *[a for s in sets for a in ("--set", s)])
    command("export", run, "--to", "hf", exported)
    train(model, "num_experts_per_tok" in json.load(open(os.path.join(source, "config.json"))))
    model.save_pretrained(source + "-torch")
    expected_weights, weights = tensors_of(source + "-torch"), tensors_of(exported)
    if expected_weights.keys() != weights.keys():
        sys.exit(f"{family}: {expected_weights.keys() ^ weights.keys()}")
    row["trained"] = max(((weights[k] - v).norm() / v.norm()).item() for k, v in expected_weights.items())
    row["exported"] = logits_difference(exported, model)
    row["opened"] = logits_difference(os.path.join(run, "checkpoints", "step-00000003"), model)
    row["same_bits"] = passed_through(build(make_config(), seed), place)
    return row


def write_fixtures(directory):
    """What tests/tools/huggingface_test.py reads: the models in bf16, and what PyTorch makes of them."""
    open(os.path.join(directory, "text"), "wb").write(TEXT)
    expected = {"torch": torch.__version__, "transformers": transformers.__version__, "prompt": TEXT[:8].decode()}
    for family, make_config in FAMILIES.items():
        model, _, tokens, _ = with_clear_margins(make_config, torch.bfloat16)
        expected[family] = {"loss": mean_loss(model, SHAPE["max_position_embeddings"]), "tokens": tokens}
        model.to(torch.bfloat16).save_pretrained(os.path.join(directory, family))
    json.dump(expected, open(os.path.join(directory, "expected.json"), "w"), indent=1)


def main():
    global PROGRAM
    parser = argparse.ArgumentParser()
    parser.add_argument("--switchyard", default=os.path.join(ROOT, "build", "switchyard"))
    parser.add_argument("--results")
    parser.add_argument("--fixtures", help="write the test's models into this directory and end")
    options = parser.parse_args()
    PROGRAM = os.path.abspath(options.switchyard)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if options.fixtures:
        return write_fixtures(options.fixtures)
    rows = []
    for family, make_config in FAMILIES.items():
        with tempfile.TemporaryDirectory() as place:
            rows.append(round_trip(family, make_config, place))
        print(rows[-1], flush=True)
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = ["# Round trip with transformers", "",
             f"{datetime.date.today()}, commit {commit}, `scripts/check_huggingface.py`, torch {torch.__version__}, "
             f"transformers {transformers.__version__}. What each column is stands in the script.", "",
             "| family | seed | smallest margin | loss | greedy tokens | weights after 3 steps | logits, exported | "
             "logits, checkpoint | fp32, bf16, fp16, shards |", "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    failed = False
    for r in rows:
        good = (r["loss"] <= 1e-6 and r["tokens"] == NEW_TOKENS and r["trained"] <= 1e-5 and r["exported"] <= 1e-5
                and r["opened"] <= 1e-5 and r["same_bits"])  # fmt: skip
        failed |= not good
        lines.append(f"| {r['family']} | {r['seed']} | {r['margin']:.1e} | {r['loss']:.1e} | {r['tokens']} of {NEW_TOKENS} | "
                     f"{r['trained']:.1e} | {r['exported']:.1e} | {r['opened']:.1e} | {'same bits' if r['same_bits'] else 'DIFFER'} |")
    table = "\n".join(lines) + "\n"
    print(table)
    if options.results:
        open(options.results, "w", encoding="utf-8").write(table)
    sys.exit("a figure is beyond its bound" if failed else 0)


if __name__ == "__main__":
    main()
