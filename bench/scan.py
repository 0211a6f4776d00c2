"""The chunked scan against other scans, and the layer against other layers: forward + backward, equal tokens a call.

usage: python bench/scan.py [--quick] [--lengths 64 252 1024 4096 16384] [--tokens 16384] [--rounds 5] [--threads 1]
                            [--part cores memory layers] [--no-compile] [--keep-memory]

Every round times all forms once, one after the other, so that a machine that slows down slows all of them. What is
printed is the median over rounds of the *ratio* within a round; above 1, ours is the faster one. `--quick` takes less
than a minute, everything less than twelve. `--keep-memory` tells the C library to keep what it was given, which removes
page faults; the full run repeats the table of layers that way in a process of its own.
"""
import argparse
import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import head, interleave, keep_memory, machine, median, peak_mib, ratio, row
from torch import nn
from torch._higher_order_ops.associative_scan import generic_associative_scan
from torch.nn import functional as F

from hybrid_ssm.ssm import SelectiveSSM, selective_scan, selective_scan_reference

WIDTH, ROWS, HEADS = 64, 16, 4
P = WIDTH // HEADS
RNG = torch.Generator()


def scan_inputs(batch, length):
    "Random inputs of the scan with decays between exp(-0.002) and exp(-2)"
    draw = lambda *shape: torch.randn(*shape, generator=RNG).requires_grad_()
    rate = torch.rand(batch, length, HEADS, generator=RNG)
    log_a = (-.002 * 1000 ** rate).requires_grad_()
    return [draw(batch, length, HEADS, P), log_a, draw(batch, length, ROWS), draw(batch, length, ROWS)]


def states_of(u, log_a, B):
    "Decay and write of every number of the state: what general scans are given (b, l, head, n, p) twice"
    write = B[:, :, None, :, None] * u[:, :, :, None]
    return log_a.exp()[..., None, None].expand_as(write), write


def with_pscan():
    "mamba.py's parallel scan of a state of the same size, or None"
    try:
        from mambapy.pscan import pscan
    except ImportError:
        print("mambapy is not installed: its column stays empty (pip install mambapy)", file=sys.stderr)
        return None

    def scan(u, log_a, B, C):
        a, write = (x.transpose(3, 4).flatten(2, 3) for x in states_of(u, log_a, B))  # (b, l, d, n)
        return (pscan(a.contiguous(), write.contiguous()) @ C[..., None]).squeeze(-1).unflatten(-1, (HEADS, P))
    return scan


def associative(u, log_a, B, C):
    "torch's associative scan, eager, generic combination"
    combine = lambda early, late: (early[0] * late[0], late[0] * early[1] + late[1])
    over = [x.movedim(1, 0).contiguous() for x in states_of(u, log_a, B)]
    if u.shape[1] == 1: return None
    flat = lambda x, y: [*combine(x, y)]
    _, h = generic_associative_scan(lambda a0, x0, a1, x1: flat((a0, x0), (a1, x1)), over)
    return torch.einsum("lbhnp,bln->blhp", h, C)


def with_cpp():
    "A plain loop in C++ of the same decay family, built by g++; or None"
    source = Path(__file__).with_name("scan_cpp.cpp")
    library = Path(tempfile.mkdtemp()) / "scan_cpp.so"
    try:
        subprocess.run(["g++", "-O3", "-march=native", "-ffast-math", "-shared", "-fPIC", str(source), "-o", str(library)],
                       check=True)
    except (OSError, subprocess.CalledProcessError):
        print("no C++ compiler: its column stays empty", file=sys.stderr)
        return None
    code = ctypes.CDLL(str(library))
    pointers = lambda tensors: [ctypes.c_void_p(x.data_ptr()) for x in tensors]

    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u, log_a, B, C):
            b, l, heads, _ = u.shape
            y, starts = torch.empty_like(u), u.new_empty(b, -(-l // 16), heads, ROWS, P)
            code.scan_forward(*pointers((u, log_a, B, C, y, starts)), b, l, heads, ROWS)
            ctx.save_for_backward(u, log_a, B, C, starts)
            return y

        @staticmethod
        def backward(ctx, gy):
            saved, gy = ctx.saved_tensors, gy.contiguous()
            grads = [torch.empty_like(x) for x in saved[:4]]
            b, l, heads, _ = gy.shape
            code.scan_backward(*pointers((*saved, gy, *grads)), b, l, heads, ROWS)
            return tuple(grads)
    return Scan.apply


class CausalAttention(nn.Module):
    "Causal attention of four heads with its projections, by torch's fused kernel"
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = (z.unflatten(-1, (HEADS, -1)).transpose(1, 2) for z in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


def forward_backward(form, inputs, extra=()):
    "A call that runs `form` both ways with a fixed gradient, equal for all forms"
    def call():
        for x in (*inputs, *extra):
            x.grad = None
        y = form(*inputs)
        y = y[0] if isinstance(y, tuple) else y
        if call.gradient is None:
            call.gradient = torch.randn(y.shape, generator=RNG)
        y.backward(call.gradient)
    call.gradient = None
    return call


def agree(forms, inputs):
    "All forms compute the same sum, or their times mean nothing"
    true, _ = selective_scan_reference(*(x.double() for x in inputs))
    for name, form in forms.items():
        y = form(*inputs)
        y = y[0] if isinstance(y, tuple) else y
        off = ((y - true).norm() / true.norm()).item()
        assert off < 1e-5, f"{name} is {off:.1e} off"


def cores(args):
    "Forms of the scan, in the order of the columns"
    forms = dict(ours=selective_scan, loop=selective_scan_reference, pscan=with_pscan(), associative=associative, cpp=with_cpp())
    forms = {name: form for name, form in forms.items() if form is not None}
    agree(forms, scan_inputs(2, 100))
    return forms


def core_table(args, forms):
    "Speed of the scan and of the other forms over the lengths"
    baselines = [name for name in forms if name != "ours"]
    print(f"\ncore scan, f+b, {args.tokens} tokens a call\n")
    print(head("L", "batch", "ours, Mtok/s", *(f"against {name}" for name in baselines)))
    speeds = []
    for length in args.lengths:
        batch = max(args.tokens // length, 1)
        inputs = scan_inputs(batch, length)
        quick = {name: forward_backward(forms[name], inputs) for name in forms if name not in ("loop", "pscan", "associative")}
        slow = {name: forward_backward(forms[name], inputs) for name in forms if name not in ("cpp",)}
        fast_taken = interleave(quick, 3 * args.rounds)
        slow_taken = interleave(slow, max(1, args.rounds // 2))
        speeds.append(batch * length / median(fast_taken, "ours") / 1e6)
        taken = lambda name: fast_taken if name == "cpp" else slow_taken
        print(row(length, batch, speeds[-1], *(ratio(taken(name), name, "ours") for name in baselines)), flush=True)
    print(f"\nfastest length over slowest: {max(speeds) / min(speeds):.2f}")


def memory_table(args, forms):
    "Peak memory of one call, forward + backward"
    print("\npeak memory of a call, MiB\n")
    print(head("L", *forms))
    for length in args.lengths:
        inputs = scan_inputs(max(args.tokens // length, 1), length)
        print(row(length, *(peak_mib(forward_backward(form, inputs)) for form in forms.values())), flush=True)


def layer_table(args):
    "Whole layers of width 64"
    kept = args.keep_memory and keep_memory()
    print(f"\nlayers, f+b, ratio of times; {'page faults removed' if kept else 'default allocator'}\n")
    layers = dict(eager=SelectiveSSM(WIDTH, ROWS, HEADS), LSTM=nn.LSTM(WIDTH, WIDTH, batch_first=True),
                  GRU=nn.GRU(WIDTH, WIDTH, batch_first=True), attention=CausalAttention())
    ours = ["eager"] + ([] if args.no_compile else ["compiled"])
    print(head("L", "batch", "LSTM, Mtok/s", *(f"{name} against {baseline}" for name in ours for baseline in ("LSTM", "GRU", "attention"))))
    for length in (n for n in args.lengths if 64 < n < 16384):
        batch = max(args.tokens // length, 1)
        x = [torch.randn(batch, length, WIDTH, generator=RNG).requires_grad_()]
        forms = dict(layers)
        if not args.no_compile:
            torch.compiler.reset()
            forms["compiled"] = torch.compile(layers["eager"], dynamic=False)
        calls = {name: forward_backward(form, x, tuple(layers[name if name in layers else "eager"].parameters()))
                 for name, form in forms.items()}
        taken = interleave(calls, args.rounds)
        print(row(length, batch, batch * length / median(taken, "LSTM") / 1e6,
                  *(ratio(taken, baseline, name) for name in ours for baseline in ("LSTM", "GRU", "attention"))), flush=True)


def main():
    "Print the machine line and the tables"
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--quick", action="store_true", help="two lengths, few rounds, nothing compiled")
    ask.add_argument("--lengths", type=int, nargs="+", default=[64, 252, 1024, 4096, 16384])
    ask.add_argument("--tokens", type=int, default=16384, help="tokens a call, whatever the length")
    ask.add_argument("--rounds", type=int, default=5)
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--part", nargs="+", default=["cores", "memory", "layers"])
    ask.add_argument("--no-compile", action="store_true")
    ask.add_argument("--keep-memory", action="store_true")
    args = ask.parse_args()
    if args.quick:
        args.lengths, args.rounds, args.no_compile, args.tokens = [252, 1024], 2, True, 8192
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    RNG.manual_seed(0)
    print(machine())
    print(f"width {WIDTH}, {ROWS} rows a head, {HEADS} heads, float32, {args.rounds} rounds", flush=True)
    if {"cores", "memory"} & set(args.part):
        forms = cores(args)
        if "cores" in args.part: core_table(args, forms)
        if "memory" in args.part: memory_table(args, forms)
    if "layers" in args.part:
        layer_table(args)
        if not args.quick and not args.keep_memory:
            sys.stdout.flush()
            again = ["--part", "layers", "--keep-memory", "--lengths", *map(str, args.lengths), "--rounds", str(args.rounds)]
            subprocess.run([sys.executable, __file__, *again, *["--no-compile"] * args.no_compile], check=True)


if __name__ == "__main__":
    main()
