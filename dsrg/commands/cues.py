"""Commands for seeds in the format of SEC and DSRG: import-cues, export-cues."""

from pathlib import Path

import click

from dsrg.commands.group import main


@main.command("import-cues")
@click.argument("cues", type=click.Path(path_type=Path), metavar="CUES.pickle")
@click.option("--list", "list_path", type=click.Path(path_type=Path), required=True, help="Its input_list.txt.")
@click.option("--out", type=click.Path(path_type=Path), help="Seeds to write.  [default: data/seeds.h5]")
@click.option(
    "--conflict",
    type=click.Choice(["highest", "unlabeled"]),
    default="highest",
    show_default=True,
    help="Who gets a cell with cues of several classes: the highest class number, as released, or nobody.",
)
def import_cues(cues: Path, list_path: Path, out: Path | None, conflict: str) -> None:
    """Turn localization cues as SEC and DSRG released them into seeds, for the images of the index.

    The pickle is read as data; nothing that it names is run. To have the pipeline do this in place of making seeds, set
    seeds.cues and seeds.cues_list in params.yaml.
    """
    import json

    from dsrg.artifacts.cues import read_cues
    from dsrg.artifacts.seeds_h5 import write_seeds
    from dsrg.method.grid import grid_size
    from dsrg.project import load_project

    project = load_project()
    params, out = project.params, out or project.paths.seeds
    grid, theirs = (grid_size(size) for size in (params.data.size, params.seeds.cues_size or params.data.size))
    classes = project.classes
    index = project.index().split("train")
    found = read_cues(cues, list_path, index, grid=theirs, classes=classes, conflict=conflict).resampled(grid)
    origin = {"cues": cues.name, "cues_list": list_path.name, "conflict": conflict}
    write_seeds(out, found.rows(), count=len(index), grid=grid, classes=classes, params=json.dumps(origin))
    click.echo("\n".join([f"{out}:", *found.remarks(index, classes)]))


@main.command("export-cues")
@click.option("--seeds", type=click.Path(path_type=Path), help="Seeds to read.  [default: data/seeds.h5]")
@click.option("--list", "list_path", type=click.Path(path_type=Path), required=True, help="List to write.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Pickle to write.")
def export_cues(seeds: Path | None, list_path: Path, out: Path) -> None:
    """Write seeds as localization cues and list, as the code of SEC and DSRG reads them."""
    from dsrg.artifacts.cues import write_cues
    from dsrg.artifacts.seeds_h5 import read_seeds
    from dsrg.project import load_project

    project = load_project()
    found = read_seeds(seeds or project.paths.seeds, classes=project.classes)
    write_cues(out, list_path, found)
    click.echo(f"{out}, {list_path}: cues of {len(found.ids)} images")
