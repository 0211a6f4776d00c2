"""The chunked scan against its plain recurrence and against nn.LSTM, interleaved in one process.

usage: python bench/scan.py [--lengths 64 252 1024] [--tokens 16384] [--rounds 7] [--threads 1]

Every round times all rivals once, one after the other, so that a machine that slows down slows all of them. What is
printed is the median over rounds of the *ratio* within a round; above 1, the scan is the faster one.
"""
import argparse
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from hybrid_ssm.ssm import SelectiveSSM, selective_scan, selective_scan_reference

WIDTH, ROWS, HEADS = 64, 16, 4


def machine():
    "The line without which no figure means anything"
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines()
                 if line.startswith("model name")]
        cpu = f"{named[0]} x {len(named)}" if named else cpu
    level = torch.backends.cpu.get_cpu_capability()
    return (f"{cpu}, {level}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, "
            f"Python {platform.python_version()}, float32, default allocator")


def scan_inputs(batch, length, rng):
    "Random inputs of the scan with decays between exp(-0.002) and exp(-2)"
    draw = lambda *shape: torch.randn(*shape, generator=rng).requires_grad_()
    rate = torch.rand(batch, length, HEADS, generator=rng)
    log_a = (-.002 * 1000 ** rate).requires_grad_()
    return [draw(batch, length, HEADS, WIDTH // HEADS), log_a,
            draw(batch, length, ROWS), draw(batch, length, ROWS)]


def step(forward, inputs):
    "Seconds of one forward and backward pass"
    for x in inputs:
        x.grad = None
    start = time.perf_counter()
    out = forward(*inputs)
    (out[0] if isinstance(out, tuple) else out).square().mean().backward()
    return time.perf_counter() - start


def rivals(batch, length, rng):
    "name -> (function, inputs); `core` is the scan alone, `layer` the whole of width 64"
    core = scan_inputs(batch, length, rng)
    wide = [torch.randn(batch, length, WIDTH, generator=rng).requires_grad_()]
    return {"core": (selective_scan, core), "recurrence": (selective_scan_reference, core),
            "layer": (SelectiveSSM(WIDTH, ROWS, HEADS), wide), "LSTM": (nn.LSTM(WIDTH, WIDTH, batch_first=True), wide)}


def compare(length, tokens, rounds):
    "One row of the table"
    rng = torch.Generator().manual_seed(0)
    batch = max(tokens // length, 1)
    runners = rivals(batch, length, rng)
    for forward, inputs in runners.values():
        step(forward, inputs)  # warm
    taken = [{name: step(*runner) for name, runner in runners.items()} for _ in range(rounds)]
    median = lambda value: statistics.median(map(value, taken))
    return (length, batch, batch * length / median(lambda t: t["core"]) / 1e6,
            median(lambda t: t["recurrence"] / t["core"]), median(lambda t: t["LSTM"] / t["layer"]))


def main():
    "Print the machine line and one row per length"
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--lengths", type=int, nargs="+", default=[64, 252, 1024])
    ask.add_argument("--tokens", type=int, default=16384, help="tokens a call, whatever the length")
    ask.add_argument("--rounds", type=int, default=7)
    ask.add_argument("--threads", type=int, default=1)
    args = ask.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(machine())
    print(f"forward + backward, width {WIDTH}, {ROWS} rows a head, {HEADS} heads, {args.rounds} rounds\n")
    print("| L | batch | core, Mtok/s | recurrence / core | LSTM / layer |\n|---|---|---|---|---|")
    for length in args.lengths:
        l, batch, speed, loop, lstm = compare(length, args.tokens, args.rounds)
        print(f"| {l} | {batch} | {speed:.2f} | {loop:.1f} | {lstm:.2f} |", flush=True)


if __name__ == "__main__":
    main()
