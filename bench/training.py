"""What training costs: steps of the hybrid against networks of equal width, the share of loading, memory, a second process.

usage: python bench/training.py [--panels sample large] [--rounds 5] [--batch 64] [--width 64] [--processes]

sample  the bundled 20 symbols with their features, as the trainer prepares them.
large   500 symbols x 20 years x 20 features of noise (speed does not depend on what the numbers are), in memory and as
        memory-mapped files.

A step is the whole of it: windows taken from the tables, forward, the joint objective net of costs, backward, clipping,
AdamW. All models have two layers of the same width and are timed in turn, in one process.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import head, interleave, machine, median, ratio, row
from torch import nn

from hybrid_ssm.baselines import LSTMBaseline, TransformerBaseline
from hybrid_ssm.callbacks import configure_optimizer
from hybrid_ssm.handler import FinancialDataHandler, PanelArrays
from hybrid_ssm.hybrid import HybridFinancialModel
from hybrid_ssm.loop import Run, SingleProcess, gradients, shard, take_batch
from hybrid_ssm.losses import JointLoss

SYMBOLS, SESSIONS, FEATURES, WINDOW, HORIZONS = 500, 20 * 252, 20, 252, 3


def models(width):
    "Fresh networks of one width"
    return {"hybrid": HybridFinancialModel(16, width, FEATURES, 4), "LSTM": LSTMBaseline(width, FEATURES),
            "Transformer": TransformerBaseline(width, FEATURES)}


def large(folder=None, symbols=SYMBOLS):
    "Windows into tables of noise; with a folder the features are files"
    rng, shape = np.random.default_rng(0), (symbols, SESSIONS, FEATURES)
    new = lambda name, dtype: np.empty(shape, dtype) if folder is None else np.lib.format.open_memmap(
        Path(folder) / f"{name}.npy", "w+", dtype, shape)
    x, mask = new("x", np.float32), new("mask", bool)
    for i in range(symbols):  # never a second copy
        x[i], mask[i] = rng.standard_normal(shape[1:], np.float32), True
    if folder is not None:
        x.flush(), mask.flush()
        x, mask = (np.load(Path(folder) / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in ("x", "mask"))
    target = rng.standard_normal((symbols, SESSIONS, HORIZONS), np.float32)
    tables = PanelArrays(x, mask, np.ones(SESSIONS, np.float32), target, np.full((symbols, SESSIONS), .05, np.float32))
    return tables.cut(np.arange(0, SESSIONS - WINDOW + 1, WINDOW // 2), WINDOW, 63)


def sample():
    "Windows of the bundled sample"
    return FinancialDataHandler().prepare_training_data(WINDOW).train


def stepper(model, data, batch, accelerator=SingleProcess()):
    "A function that makes one step on the next windows, and one that only loads them"
    run, loss, rng = configure_optimizer(Run(model, 1), 1e-4, 10 ** 6, loss=JointLoss()), JointLoss(), np.random.default_rng(0)

    def load():
        return take_batch(data, shard(rng.integers(0, len(data), batch), accelerator))

    def step():
        gradients(run.model, load(), loss, accelerator=accelerator)
        nn.utils.clip_grad_norm_(run.model.parameters(), 1.)
        run.optimizer.step(), run.schedule.step(), run.optimizer.zero_grad()
    return step, load


def memory():
    "Peak of all memory of this process, and what of it is its own now (not pages of mapped files), MiB"
    words = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(words[k].split()[0]) // 1024 for k in ("VmHWM", "RssAnon")]


def speed(name, data, args):
    "Table of one panel"
    parts = {m: stepper(net, data, args.batch) for m, net in models(args.width).items()}
    taken = interleave({m: step for m, (step, _) in parts.items()} | {"loading": parts["hybrid"][1]}, args.rounds)
    print(f"\n### {name}: {len(data):,} windows of {data.length} sessions, batch {args.batch}, width {args.width}\n")
    print(head("", "windows a second", "hybrid / this", "loading, share of the step"))
    for m in parts:
        print(row(m, args.batch / median(taken, m), 1 / ratio(taken, "hybrid", m), 1 / ratio(taken, m, "loading")))


def one_memory(kind, args):
    "Three steps of the hybrid on the large panel in a process of its own"
    with tempfile.TemporaryDirectory() as folder:
        data = large(folder if kind == "mapped" else None)
        step, _ = stepper(models(args.width)["hybrid"], data, args.batch)
        for _ in range(3): step()
        print(*memory())


def one_of_several(args):
    "Steps a second of this process's share of a run; printed by the first one"
    from accelerate import Accelerator
    accelerator = Accelerator(cpu=True) if int(os.environ.get("WORLD_SIZE", 1)) > 1 else SingleProcess()
    step, _ = stepper(models(args.width)["hybrid"], large(symbols=20), args.batch, accelerator)
    step()
    began = time.perf_counter()
    for _ in range(args.rounds): step()
    if accelerator.is_main_process: print(args.rounds / (time.perf_counter() - began))


def child(*words, processes=1):
    "Run this script again, in one process or several, and return what it prints last"
    several = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--master_addr=127.0.0.1", "--master_port=29541"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([sys.executable, *(several if processes > 1 else []), __file__, *words], env=env,
                          capture_output=True, text=True, check=True)
    return done.stdout.split()


def main():
    "Print the machine line and the tables"
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--panels", nargs="+", default=["sample", "large"], choices=["sample", "large"])
    ask.add_argument("--rounds", type=int, default=5)
    ask.add_argument("--batch", type=int, default=64)
    ask.add_argument("--width", type=int, default=64)
    ask.add_argument("--processes", action="store_true", help="one process against two")
    ask.add_argument("--child", help=argparse.SUPPRESS)
    args = ask.parse_args()
    torch.set_num_threads(1)
    sizes = [f"--{k}={getattr(args, k)}" for k in ("rounds", "batch", "width")]
    if args.child: return one_of_several(args) if args.child == "share" else one_memory(args.child, args)
    print(machine())
    if "sample" in args.panels: speed("sample", sample(), args)
    if "large" in args.panels:
        with tempfile.TemporaryDirectory() as folder:
            speed("large, mapped files", large(folder), args)
        print(f"\n{head('large panel', 'peak MiB of the process', 'of its own MiB')}")
        for kind in ("in memory", "mapped"):
            print(row(kind, *child(f"--child={kind}", *sizes)[-2:]))
    if args.processes:
        rounds = [[float(child("--child=share", *sizes, processes=n)[-1]) for n in (1, 2)] for _ in range(3)]
        print(f"\none process -> two, one thread each: {np.median([b / a for a, b in rounds]):.2f} times the steps a second")


if __name__ == "__main__":
    main()
