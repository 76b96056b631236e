"""Wall time and peak memory of every stage: runs `dvc repro`, stage by stage, prints a table and writes JSON.

    python -m benchmarks.stages --name demo [--force]

Memory is the sum over the stage's processes of their proportional set size (Linux: a page that several share counts
once), looked at every second.
"""

import json
import subprocess
import time
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from benchmarks import RESULTS
from benchmarks.timing import write_figures


def measured(command: list[str], *, every: float = 1.0) -> tuple[float, float]:
    """Seconds and peak GiB of a command and its children, looked at `every` so many seconds.

    Raises CalledProcessError when it fails.
    """
    began, peak = time.monotonic(), 0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(member.memory_full_info().pss for member in family))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
        time.sleep(every)  # reading the shares of a large process costs milliseconds
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.monotonic() - began, peak / 2**30


@click.command()
@click.option("--name", required=True, help="Of the JSON file in benchmarks/results.")
@click.option("--force", is_flag=True, help="Run stages that are up to date too.")
def main(name: str, force: bool) -> None:
    stages = list(YAML(typ="safe").load(Path("dvc.yaml").read_text())["stages"])
    table = Table("stage", "seconds", "peak GiB")
    rows = {}
    for stage in stages:
        seconds, memory = measured(["dvc", "repro", "--single-item", *["--force"] * force, stage])
        rows[stage] = {"seconds": round(seconds, 1), "peak_gib": round(memory, 2)}
        table.add_row(stage, f"{seconds:.0f}", f"{memory:.1f}")
    total = sum(row["seconds"] for row in rows.values())
    table.add_row("all", f"{total:.0f}", f"{max(row['peak_gib'] for row in rows.values()):.1f}")
    Console().print(table)
    metrics = json.loads(Path("results/evaluate/metrics.json").read_text())
    write_figures(RESULTS / f"stages-{name}.json", {"stages": rows, "total_seconds": total, **metrics})


if __name__ == "__main__":
    main()
