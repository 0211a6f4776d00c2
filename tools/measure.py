"""Run a command and say how long it took and how much memory its processes held at once.

usage: python tools/measure.py COMMAND [ARGUMENT ...]
"""
import subprocess
import sys
import threading
import time

import psutil


def resident(process):
    "Bytes held by `process` and all its descendants; those that ended meanwhile count nothing"
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            total += member.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def measure(command, every=0.1):
    "Run `command`; return its exit status, seconds, and peak bytes summed over the process tree"
    start, peak, done = time.perf_counter(), 0, threading.Event()
    child = subprocess.Popen(command)
    root = psutil.Process(child.pid)

    def watch():
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident(root))
            done.wait(every)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    while True:
        try:
            status = child.wait()
            break
        except KeyboardInterrupt:  # the child got it too and finishes in its own way
            continue
    done.set()
    watcher.join()
    return status, time.perf_counter() - start, peak


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    status, seconds, peak = measure(sys.argv[1:])
    minutes, rest = divmod(seconds, 60)
    print(f"\ntime {minutes:.0f} min {rest:.0f} s, peak memory {peak / 2**30:.2f} GiB "
          "(resident, summed over all processes)")
    sys.exit(status)
