#!/usr/bin/env python3
"""Writes what transformers computes for tiny Mixtral, OLMoE and Qwen3-MoE models, for tests/engine/model/transformers_test.cpp.

usage: make_transformers_fixtures.py [DIRECTORY]        (default: tests/golden)

Needs torch, transformers, safetensors and numpy from PyPI. Weights and tokens follow from a formula that the test has too,
so only results are stored, in fp32: logits, losses, gradients, and the weights after three AdamW steps. The seed of a
model is the first for which no token's choice of experts is closer than MARGIN.
"""

import os
import sys
import zlib

import numpy
import safetensors.torch
import torch
import transformers

MARGIN = 1e-4  # between the scores of the last expert chosen and the first left out
VOCABULARY, SEQUENCES, LENGTH = 48, 2, 12
AUX_LOSS_COEF = 0.02
SHAPE = dict(
    vocab_size=VOCABULARY, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=LENGTH, router_aux_loss_coef=AUX_LOSS_COEF, output_router_logits=True,
    attention_dropout=0.0, pad_token_id=None, bos_token_id=None, eos_token_id=None, num_experts_per_tok=2,
    tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})  # fmt: skip
FAMILIES = {
    "mixtral": lambda: transformers.MixtralConfig(
        **SHAPE, num_local_experts=6, intermediate_size=20, rms_norm_eps=1e-5, head_dim=6, sliding_window=None),
    "olmoe": lambda: transformers.OlmoeConfig(
        **{**SHAPE, "num_key_value_heads": 4, "num_experts_per_tok": 3}, num_experts=6, intermediate_size=20,
        rms_norm_eps=1e-5, norm_topk_prob=False),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **{**SHAPE, "num_hidden_layers": 3}, num_experts=6, moe_intermediate_size=20, intermediate_size=28, head_dim=8,
        norm_topk_prob=True, rms_norm_eps=1e-6, decoder_sparse_step=1, mlp_only_layers=[1]),
}  # fmt: skip


def bits(seed, name, count):
    """Element i: 32 bits that depend on seed, name and i alone."""
    x = numpy.arange(count, dtype=numpy.uint64) + numpy.uint64(seed * 1000003 + zlib.crc32(name.encode()))
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        x = (x ^ (x >> numpy.uint64(30))) * numpy.uint64(factor)
    return (x >> numpy.uint64(32)).astype(numpy.uint32)


def weight(seed, name, shape):
    """Uniform in [-a, a): a = 0.6 in routers, 0.2 in other matrices; 1 + 0.2 times that in norms."""
    unit = (bits(seed, name, int(numpy.prod(shape))) >> 8).astype(numpy.float32) / numpy.float32(1 << 23) - 1
    if len(shape) == 1:
        unit = numpy.float32(1) + numpy.float32(0.2) * unit
    else:
        unit = numpy.float32(0.6 if name.endswith(".mlp.gate.weight") else 0.2) * unit
    return torch.from_numpy(unit.reshape(shape))


def parts(name, tensor):
    """A tensor of transformers in memory, as the tensors of one expert each that lie in files."""
    if name.endswith(".mlp.experts.gate_up_proj"):
        half = tensor.shape[1] // 2
        for expert, both in enumerate(tensor):
            yield name.replace("gate_up_proj", f"{expert}.gate_proj.weight"), both[:half]
            yield name.replace("gate_up_proj", f"{expert}.up_proj.weight"), both[half:]
    elif name.endswith(".mlp.experts.down_proj"):
        for expert, down in enumerate(tensor):
            yield name.replace("down_proj", f"{expert}.down_proj.weight"), down
    else:
        yield name, tensor


def build(config, seed):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    model.train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for part, view in parts(name, parameter):
                view.copy_(weight(seed, part, tuple(view.shape)))
    tokens = torch.from_numpy((bits(seed, "tokens", SEQUENCES * (LENGTH + 1)) % VOCABULARY).astype(numpy.int64))
    return model, tokens.reshape(SEQUENCES, LENGTH + 1)


def run(model, tokens):
    out = model(tokens[:, :-1], use_cache=False)
    loss = torch.nn.functional.cross_entropy(out.logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))
    return out, loss, loss + AUX_LOSS_COEF * out.aux_loss


def smallest_margin(out, slots):
    best = torch.softmax(torch.cat(list(out.router_logits)), -1).sort(-1, descending=True).values
    return (best[:, slots - 1] - best[:, slots]).min().item()


def by_part(model, of):
    return {part: value.contiguous().clone() for name, p in model.named_parameters() for part, value in parts(name, of(p))}


def fixture(config):
    for seed in range(1, 1000):
        model, tokens = build(config, seed)
        out, loss, total = run(model, tokens)
        margin = smallest_margin(out, config.num_experts_per_tok)
        if margin > MARGIN:
            break
    else:
        sys.exit(f"{config.model_type}: no seed below 1000 has every margin above {MARGIN}")
    total.backward()
    result = {"seed": torch.tensor([float(seed)]), "logits": out.logits.detach().reshape(-1, VOCABULARY),
              "loss": loss.detach().reshape(1), "aux_loss": out.aux_loss.detach().reshape(1)}  # fmt: skip
    result |= {f"gradient.{name}": value for name, value in by_part(model, lambda p: p.grad).items()}
    decayed = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
        lr=1e-4, betas=(0.9, 0.95), eps=1e-8)  # fmt: skip
    for _ in range(3):
        optimizer.zero_grad()
        run(model, tokens)[2].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    result |= {f"after.{name}": value for name, value in by_part(model, lambda p: p.detach()).items()}
    return result, seed, margin


def main():
    directory = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "..", "tests", "golden")
    torch.set_num_threads(1)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    for family, config in FAMILIES.items():
        result, seed, margin = fixture(config())
        path = os.path.join(directory, f"{family}.safetensors")
        safetensors.torch.save_file(result, path, metadata=versions)
        print(f"{family}: seed {seed}, smallest margin {margin:.2e}, {os.path.getsize(path)} bytes, {versions}")


if __name__ == "__main__":
    main()
