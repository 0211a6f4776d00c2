"""Windowed attention against dense forms: time, memory at growing length, and one streaming step.

usage: python bench/attention.py [--lengths 64 252 1024 4096] [--memory 1024 4096 16384] [--rounds 7] [--threads 1]

Every round times all forms once, one after the other. Times are seconds of processor; what is printed is the median
over rounds of the *ratio* within a round; above 1, the windows are the faster ones. Memory is what tensors held at once
in one forward and backward pass, batch of one.
"""
import argparse

import torch
from common import interleave, machine, peak_mib, ratio, row
from torch.nn import functional as F

from hybrid_ssm.attention import UNSEEN, WindowedAttention, lag_bias, windowed_attention

WIDTH, HEADS = 64, 4


def windows(layer, u):
    "The layer as it is: slices"
    return layer(u)[0]


def causal(layer, u):
    "Full causal attention with the same projections, by PyTorch's fused kernel: sees everything"
    q, k, v = layer.project(u)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.).transpose(1, 2).flatten(2)


def _bias(layer, l):
    i = torch.arange(l, dtype=torch.float32)
    return lag_bias(i[:, None] - i, layer.slope, layer.window)


def dense(layer, u):
    "The same windows as a mask over the whole table of scores"
    q, k, v = layer.project(u)
    m = (q @ k.mT + _bias(layer, u.shape[1])).softmax(-1) @ v
    return m.transpose(1, 2).flatten(2)


def masked(layer, u):
    "The same windows as a float mask given to the fused kernel"
    q, k, v = layer.project(u)
    bias = _bias(layer, u.shape[1])
    return F.scaled_dot_product_attention(q, k, v, bias, scale=1.).transpose(1, 2).flatten(2)


def fused_blocks(layer, u, block=126):
    "The same slices, each block by the fused kernel; age rides on one more coordinate of the keys, so the mask is constant"
    q, k, v = layer.project(u)
    l, out = u.shape[1], []
    age_rate = (layer.slope / layer.window).view(1, -1, 1, 1).expand(len(u), -1, l, 1)
    position = torch.arange(l, dtype=torch.float32)[:, None].expand(len(u), HEADS, l, 1)
    q, k, v = torch.cat([q, age_rate], -1), torch.cat([k, position - l], -1), F.pad(v, (0, 1))
    for h, window in enumerate(layer.windows):
        parts = []
        for start in range(0, l, block):
            end, near = min(start + block, l), max(0, start - window + 1)
            age = torch.arange(start, end)[:, None] - torch.arange(near, end)
            mask = torch.zeros(age.shape).masked_fill((age < 0) | (age >= window), UNSEEN)
            at = [x[:, h:h + 1] for x in (q[:, :, start:end], k[:, :, near:end], v[:, :, near:end])]
            parts.append(F.scaled_dot_product_attention(*at, mask, scale=1.)[..., :-1])
        out.append(torch.cat(parts, 2))
    return torch.cat(out, 1).transpose(1, 2).flatten(2)


FORMS = dict(windows=windows, causal=causal, fused_blocks=fused_blocks, dense=dense, masked=masked)


def both_ways(form, layer, u):
    "A call that runs forward and backward"
    return lambda: form(layer, u).square().mean().backward()


def times(lengths, tokens, rounds):
    "Rows of the table of times"
    layer = WindowedAttention(WIDTH, HEADS)
    for l in lengths:
        u = torch.randn(max(tokens // l, 1), l, WIDTH, requires_grad=True)
        with torch.no_grad():
            exact = windows(layer, u)
            for form in (dense, masked, fused_blocks):
                assert (form(layer, u) - exact).norm() < 1e-5 * exact.norm(), form.__name__
        taken = interleave({name: both_ways(form, layer, u) for name, form in FORMS.items()}, rounds)
        speed = sorted(u.shape[0] * l / t["windows"] / 1e6 for t in taken)[rounds // 2]
        yield row(l, len(u), speed, *(ratio(taken, name, "windows") for name in FORMS if name != "windows"))


def one_window(l, tokens, rounds):
    "Where a window pays: one window for all heads, over the causal kernel"
    for window in (21, 63, 126, 252, 504, 1008):
        layer = WindowedAttention(WIDTH, HEADS, (window,) * HEADS)
        u = torch.randn(max(tokens // l, 1), l, WIDTH, requires_grad=True)
        taken = interleave({name: both_ways(FORMS[name], layer, u) for name in ("windows", "causal")}, rounds)
        yield row(window, ratio(taken, "causal", "windows"))


def memory(lengths):
    "Rows of the table of memory, MiB"
    for l in lengths:
        layer, u = WindowedAttention(WIDTH, HEADS), torch.randn(1, l, WIDTH, requires_grad=True)
        table = HEADS * l * l * 4 / 2 ** 20
        cell = lambda name: peak_mib(both_ways(FORMS[name], layer, u)) if name not in ("dense", "masked") or table < 1100 \
            else f"(one table: {table:.0f})"
        found = {name: cell(name) for name in FORMS}
        yield row(l, *found.values(), found["windows"] * 1024 / l)


def blocks(rounds):
    "Rows of the table of block lengths: queries handled at once"
    for l, b in ((252, 32), (1024, 8), (16384, 1)):
        q, k, v = torch.randn(3, b, 2, l, 16, requires_grad=True).unbind(0)
        slope = torch.ones(2, requires_grad=True)
        run = lambda w, n: lambda: windowed_attention(q, k, v, slope, w, block=n).square().mean().backward(retain_graph=True)
        for w in (21, 63, 252):
            taken = interleave({n: run(w, n) for n in (21, 32, 63, 126)}, rounds)
            yield row(l, b, w, *(ratio(taken, n, 63) for n in (21, 32, 63, 126)))


@torch.no_grad()
def steps(rounds):
    "Rows of the table of streaming steps: microseconds, eager"
    kinds = dict(default={}, kv_heads_1=dict(kv_heads=1), rotary=dict(positions="rotary"), frozen=dict(control="frozen"),
                 shuffled=dict(control="shuffled"), no_memory=dict(control="no_memory"))
    layers = {name: WindowedAttention(WIDTH, HEADS, **kind) for name, kind in kinds.items()}
    for b in (1, 64):
        u, caches = torch.randn(b, 1, WIDTH), {name: layer.init_cache(b) for name, layer in layers.items()}
        def run(name):
            def many():
                for _ in range(50):
                    caches[name] = layers[name](u, None, caches[name])[1]
            return many
        taken = interleave({name: run(name) for name in kinds}, rounds)
        middle = {name: sorted(t[name] for t in taken)[rounds // 2] / 50 * 1e6 for name in kinds}
        yield row(b, *(f"{us:.0f}" for us in middle.values()))


def table(title, header, rows):
    "Print a heading, a header and rows as they come"
    print(f"\n{title}\n\n{row(*header)}\n{row(*['---'] * len(header))}")
    for line in rows:
        print(line, flush=True)


def main():
    "Print the machine line and the tables"
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--lengths", type=int, nargs="+", default=[64, 252, 1024, 4096])
    ask.add_argument("--memory", type=int, nargs="+", default=[1024, 4096, 16384])
    ask.add_argument("--tokens", type=int, default=8192, help="tokens a call, whatever the length")
    ask.add_argument("--rounds", type=int, default=7)
    ask.add_argument("--threads", type=int, default=1)
    args = ask.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(machine())
    print(f"width {WIDTH}, {HEADS} heads, windows {WindowedAttention(WIDTH, HEADS).windows}, {args.rounds} rounds")
    baselines = list(FORMS)[1:]
    table("Forward + backward, whole layer: baseline over windows, ratio of times", ["L", "batch", "Mtok/s", *baselines],
          times(args.lengths, args.tokens, args.rounds))
    table("One window for all heads at L = 4096: causal over windows, ratio of times", ["window", "causal / windows"],
          one_window(4096, args.tokens, args.rounds))
    table("Peak memory, forward + backward, batch 1, MiB", ["L", *FORMS, "windows, per 1024 sessions"], memory(args.memory))
    table("Queries handled at once: time over that of 63", ["L", "batch", "window", 21, 32, 63, 126], blocks(args.rounds))
    table("One streaming step, eager, microseconds of processor",
          ["batch", "default", "kv_heads=1", "rotary", "frozen", "shuffled", "no_memory"], steps(args.rounds * 3))


if __name__ == "__main__":
    main()
