"""The command `dsrg`."""

import sys
from pathlib import Path

import click

from dsrg.errors import InputError


class _Group(click.Group):
    """Turns an InputError into its message and exit code 2."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except InputError as error:
            click.echo(str(error), err=True)
            sys.exit(2)


@click.group(cls=_Group)
@click.version_option(package_name="dsrg")
def main() -> None:
    """Image tags to pixel masks by Deep Seeded Region Growing.

    The pipeline itself runs with `dvc repro`; these commands look at what goes in and what comes out.
    """


@main.command()
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the findings to this file too.")
def check(json_path: Path | None) -> None:
    """Check params.yaml and every image, tag and mask, without writing anything else."""
    from dsrg.data.check import check_records
    from dsrg.data.sources import scan
    from dsrg.files import write_json
    from dsrg.pipeline import load_stage

    problems, warnings, found = [], [], {}
    try:
        stage = load_stage("prepare")
        data = stage.params.data
        checked = check_records(
            scan(data.source, stage.data_root, train=data.train, val=data.val), pixels_max=data.pixels_max
        )
        warnings = checked.warnings
        found = {split: len(checked.index.split(split)) for split in ("train", "val")}
        found["masks"] = len(checked.ground_truth)
    except InputError as error:
        problems = error.problems
    if json_path is not None:
        write_json(json_path, {"problems": problems, "warnings": warnings, **found})
    for warning in warnings:
        click.echo(f"warning: {warning}")
    if problems:
        raise InputError([*problems, f"{len(problems)} problem{'s' * (len(problems) > 1)}"])
    click.echo(f"fine: {found['train']} training images, {found['val']} evaluation images, {found['masks']} masks")


@main.command()
@click.argument("image_id")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="PNG to write.")
def show(image_id: str, out: Path) -> None:
    """Draw one image's whole way, from activation maps to prediction, into a PNG."""
    from dsrg.figures.journey import draw_journey
    from dsrg.pipeline import load_stage

    stage = load_stage("show")
    draw_journey(image_id, out, file=stage.file, root=stage.data_root, params=stage.params)
    click.echo(str(out))
