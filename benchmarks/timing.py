"""What the timings share: sides in turn, medians with spreads, and what a figure needs to be read by: the machine."""

import json
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dsrg.files import write_text


@dataclass
class Runs:
    """Seconds of the rounds of one side: on the clock, and of the processor, in all threads of this process.

    Programs that run beside this one lengthen the first and hardly the second, which is what a single thread would take
    on an idle machine. It knows nothing of GPUs and of other processes.
    """

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """What is reported: median, least and most on the clock, median and least of the processor."""
        wall, processor = spread(self.wall), spread(self.processor)
        return {**wall, "processor_median_s": processor["median_s"], "processor_min_s": processor["min_s"]}

    def cells(self) -> list[str]:
        """The same for a table, in milliseconds."""
        return [f"{1e3 * value:.{1 if value < 0.1 else 0}f}" for value in self.figures().values()]


COLUMNS = ("ms, median", "least", "most", "processor", "least")


def in_turn(sides: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, Runs]:
    """Timings of every side in each of some rounds. A first round, which allocates and starts things, is not counted.

    A round runs each side once, so that whatever else the machine does meets all of them.
    """
    runs = {name: Runs() for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            wall, processor = now(), time.process_time()
            side()
            if number:
                runs[name].wall.append(now() - wall)
                runs[name].processor.append(time.process_time() - processor)
    return runs


def now() -> float:
    """Seconds on a clock, when the GPU, if there is one, has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(command: list[str], **options: object) -> tuple[float, float, subprocess.CompletedProcess]:
    """Seconds on the clock and of the processors, in all its processes, of a command whose output is caught."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


def peak_bytes() -> int:
    """Most bytes of memory that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def spread(seconds: list[float]) -> dict[str, float]:
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds)}


def ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """How many times longer one side takes than another: median, least and most of the rounds' ratios."""
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def machine() -> dict:
    """What the figures depend on. `others` = programs that wanted a core in the last minute, this one included."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "others": round(os.getloadavg()[0], 1),
    }


def write_figures(path: Path, figures: dict) -> None:
    """The benchmark's JSON, with the machine it ran on; four digits of each figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(_short({"machine": machine(), **figures}), indent=2) + "\n")


def _short(value: object) -> object:
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
