"""A training step of the whole hybrid against networks of the same width, interleaved in one process.

usage: python bench/model.py [--batch 64] [--length 252] [--rounds 7] [--compile] [--couplings] [--profile]
                             [--device cuda]

All have two layers of width 64. The hybrid carries its variable selection, its heads and its Student-t likelihood; the
others are the bare trunk of PyTorch with a square loss, so the comparison leans towards them.
"""
import argparse

import torch
from common import head, interleave, machine, median, ratio, row
from torch import nn
from torch.profiler import ProfilerActivity, profile

from hybrid_ssm.attention import CONTROLS
from hybrid_ssm.hybrid import COUPLINGS, HybridFinancialModel

WIDTH, ROWS, HEADS, FEATURES = 64, 16, 4, 20


def likelihood(out, target):
    "Student-t likelihood of the target, and something for the position to learn"
    student = torch.distributions.StudentT(out.df, out.mean, out.scale, validate_args=False)
    return out.position.square().mean() - student.log_prob(target).mean()


def trainer(net, loss):
    "One training step as a function without arguments"
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def step():
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    return step


def on(device, net, *tensors):
    "A network and its inputs on a device"
    return net.to(device), *(t.to(device) for t in tensors)


def hybrid(batch, length, compiled=False, coupling="mixture", device="cpu"):
    "A training step of the hybrid"
    net = HybridFinancialModel(ROWS, WIDTH, FEATURES, HEADS, coupling=coupling, seed=0)
    net, x, target = on(device, net, torch.randn(batch, length, FEATURES), torch.randn(batch, length, 3))
    run = torch.compile(net, dynamic=False) if compiled else net
    return trainer(net, lambda: likelihood(run(x), target))


def transformer(batch, length, device="cpu"):
    "Two causal layers of `nn.TransformerEncoder`, 4 heads, feed-forward 128"
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0., batch_first=True, norm_first=True)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x, mask = torch.randn(batch, length, WIDTH), nn.Transformer.generate_square_subsequent_mask(length)
    net, x, mask = on(device, net, x, mask)
    return trainer(net, lambda: net(x, mask=mask, is_causal=True).square().mean())


def lstm(batch, length, device="cpu"):
    "Two layers of `nn.LSTM`"
    net, x = nn.LSTM(WIDTH, WIDTH, 2, batch_first=True), torch.randn(batch, length, WIDTH)
    net, x = on(device, net, x)
    return trainer(net, lambda: net(x)[0].square().mean())


def shares(batch, length):
    "Where the time of a training step of the hybrid goes: the kinds of operation that take most of it"
    step = hybrid(batch, length)
    step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    rows = sorted(seen.key_averages(), key=lambda e: -e.self_cpu_time_total)
    whole = sum(e.self_cpu_time_total for e in rows)
    print("\n" + head("operation", "calls", "share of a step"))
    for e in rows[:14]: print(row(e.key, e.count, f"{100 * e.self_cpu_time_total / whole:.1f} %"))


def main():
    "Print the machine line and the table"
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--batch", type=int, default=64)
    ask.add_argument("--length", type=int, default=252)
    ask.add_argument("--rounds", type=int, default=7)
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--compile", action="store_true", help="the hybrid compiled, too (half a minute to compile, or more)")
    ask.add_argument("--couplings", action="store_true", help="every coupling and control against the mixture")
    ask.add_argument("--profile", action="store_true", help="which operations take the time of the hybrid's step")
    ask.add_argument("--device", default="cpu", help="where the steps run, such as cuda")
    args = ask.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    shape, device = (args.batch, args.length), args.device
    runners = {"hybrid": hybrid(*shape, device=device), "TransformerEncoder": transformer(*shape, device), "LSTM": lstm(*shape, device)}
    if args.compile:
        runners["hybrid, compiled"] = hybrid(*shape, compiled=True, device=device)
    if args.couplings:
        runners |= {name: hybrid(*shape, coupling=name, device=device) for name in (COUPLINGS + CONTROLS)[1:]}
    taken = interleave(runners, args.rounds)
    print(machine())
    print(f"training step, batch {shape[0]} x {shape[1]} sessions, width {WIDTH}, {args.rounds} rounds\n")
    baselines = "TransformerEncoder", "LSTM", "hybrid"
    print(head("", "steps a second", *(f"{name} / this" for name in baselines)))
    for name in runners:
        print(row(name, 1 / median(taken, name), *(ratio(taken, baseline, name) for baseline in baselines)))
    if args.profile: shares(*shape)


if __name__ == "__main__":
    main()
