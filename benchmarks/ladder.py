"""What growth and retraining bring: static seeds with the plain loss against the whole pipeline, over some seeds.

    python -m benchmarks.ladder --name demo --seeds 0 --seeds 1 --seeds 2

Runs DVC experiments (so stages that the arms share are computed once), prints a table and writes JSON. Needs a git
repository with a commit and nothing uncommitted.
"""

import json
import statistics
import subprocess
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from dsrg.files import write_json

RESULTS = Path(__file__).parent / "results"
ARMS = {
    "static seeds, plain loss": ["grow.enabled=false", "dsrg.seed_loss=plain"],
    "static seeds, balanced loss": ["grow.enabled=false", "dsrg.seed_loss=balanced"],
    "growing seeds, balanced loss": ["grow.enabled=true", "dsrg.seed_loss=balanced"],
}


def experiment(name: str, changes: list[str]) -> dict:
    """Run an experiment in the working folder and return its evaluation metrics."""
    options = [part for change in changes for part in ("--set-param", change)]
    subprocess.run(["dvc", "exp", "run", "--name", name, *options], check=True)
    return json.loads(Path("results/evaluate/metrics.json").read_text())


@click.command()
@click.option("--name", required=True, help="Of the JSON file in benchmarks/results.")
@click.option("--seeds", multiple=True, type=int, default=[0, 1, 2])
def main(name: str, seeds: tuple[int, ...]) -> None:
    results = {
        arm: [experiment(f"{name}-{row}-{seed}", [f"seed={seed}", *changes]) for seed in seeds]
        for row, (arm, changes) in enumerate(ARMS.items())
    }
    table = Table("", "network", "mIoU", "with CRF")
    for arm, runs in results.items():
        for network in ("dsrg", "retrain"):
            cells = []
            for metric in ("miou", "miou_crf"):
                values = [100 * run[network][metric] for run in runs]
                spread = statistics.stdev(values) if len(values) > 1 else 0
                cells.append(f"{statistics.mean(values):.1f} ± {spread:.1f}")
            table.add_row(arm, network, *cells)
    Console().print(table)
    write_json(RESULTS / f"ladder-{name}.json", {"seeds": list(seeds), "arms": results})


if __name__ == "__main__":
    main()
