"""Which processor this is; apart from `common.py`, for benches that must not load torch."""
import platform
from pathlib import Path


def processor():
    "Its name and how many of it there are, as the system tells it"
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        named = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines()
                 if line.startswith("model name")]
        cpu = f"{named[0]} x {len(named)}" if named else cpu
    return cpu
