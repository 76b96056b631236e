"""Commands for what goes in: download, init, check, doctor."""

from collections.abc import Iterable
from pathlib import Path

import click

from dsrg.commands.group import main, refuse
from dsrg.errors import InputError, collecting
from dsrg.runtime.problems import report_problems


@main.command()
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the findings to this file too.")
def check(json_path: Path | None) -> None:
    """Check params.yaml, what it names, and every image, tag and mask, without writing anything else."""
    from dsrg.doctor import unseen_data
    from dsrg.files import write_json
    from dsrg.preflight import missing_files, unfit_files
    from dsrg.project import load_project
    from dsrg.sources.scan import read_source

    problems, warnings, found = [], [], {}
    with collecting(problems):
        project = load_project()
        problems += missing_files(project.params)
        settings = project.params.data.model_dump(exclude={"root", "size", "max_side", "points", "points_tags"})
        classes, checked = read_source(project.data_root, **settings)
        problems += unfit_files(project.params, checked.index, classes)
        unseen = unseen_data(project.data_root, drawn=project.paths.shapes)
        warnings = [*checked.warnings, *([unseen] if unseen else [])]
        splits = {split: checked.index.split(split) for split in ("train", "val")}
        found = {split: len(index) for split, index in splits.items()}
        counts = {split: index.present[:, 1:].sum(axis=0).tolist() for split, index in splits.items()}
        found["masks"] = len(checked.ground_truth)
        found["skipped"] = [fault.problem for fault in checked.skipped]
        found["classes"] = {name: {split: own[k] for split, own in counts.items()} for k, name in enumerate(classes)}
    if json_path is not None:
        write_json(json_path, {"problems": problems, "warnings": warnings, **found})
    if found:
        rows = ((name, own["train"], own["val"]) for name, own in found["classes"].items())
        _print_table(rows, "class", "training images", "evaluation images")
    for warning in warnings:
        click.echo(f"warning: {warning}")
    for problem in report_problems(found.get("skipped", []), name="left-out"):
        click.echo(f"left out: {problem}")
    refuse(problems)
    click.echo(f"fine: {found['train']} training images, {found['val']} evaluation images, {found['masks']} masks")


def _print_table(rows: Iterable[tuple[object, ...]], *header: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*header, box=None, show_header=bool(header))
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    Console().print(table)


@main.command("import-points")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--radius", type=click.FloatRange(0), default=0, show_default=True, help="Of points and strokes, pixels.")
def import_points(files: tuple[Path, ...], radius: float) -> None:
    """Add points and strokes from Label Studio, CVAT or labelme to data/points.csv.

    Takes key points and brushes of Label Studio (JSON, JSON-MIN), points and polylines of CVAT (CVAT for images 1.1),
    points, lines and linestrips of labelme (its JSON files or a folder of them). A brush becomes discs within what it
    painted; its radius is its own. What is there already is not added again; if anything is wrong, nothing is.
    """
    from dsrg.inspect.import_points import read_exports
    from dsrg.inspect.run import Run
    from dsrg.project import load_project

    editor = Run(load_project()).editor
    found = read_exports(files, editor.reader, radius=radius)
    with collecting(found.problems):
        editor.reader.read(found.rows)
    refuse(found.problems)
    added, known = editor.extend(found.rows)
    for warning in (*found.notes(), *added.warnings):
        click.echo(f"warning: {warning}")
    marks = [mark for own in added.marks.values() for mark in own]
    strokes = sum(len(mark.path) > 1 for mark in marks)
    click.echo(
        f"{editor.path}: {len(marks) - strokes} points and {strokes} strokes added, on {len(added.marks)} images"
    )
    if known:
        click.echo(f"{known} others were there already")
    click.echo("Next: dvc repro make_seeds")


@main.command()
@click.option("--fix", is_flag=True, help="Remove what is damaged in DVC's cache and what killed runs left.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the findings to this file too.")
def doctor(fix: bool, json_path: Path | None) -> None:
    """Look at the machine, the project, every image and artifact and DVC's cache, and say what is wrong.

    Reads everything, so it takes as long as the disk does. Exit code 0: nothing is wrong; 2: something is. Removes
    nothing unless told to.
    """
    from itertools import chain

    from dsrg import doctor
    from dsrg.files import write_json
    from dsrg.project import load_project

    try:
        project = load_project()
        places = {path.parent for path in vars(project.paths).values()} - {Path(".")} | {project.paths.results}
        own = doctor.look_at_data(project)
    except InputError:
        places, own = {Path("data"), Path("results")}, []  # why, is told among the project's lines
    looks = (
        doctor.look_at_machine(Path("constraints.txt")),
        doctor.look_at_project(sorted(places)),
        own,
        doctor.look_at_cache(),
    )
    findings = list(chain.from_iterable(looks))
    _print_table(finding[:3] for finding in findings)
    if json_path is not None:
        rows = [finding._asdict() | {"remove": [str(path) for path in finding.remove]} for finding in findings]
        write_json(json_path, {"findings": rows})
    gone = doctor.fix(findings) if fix else []
    for path in gone:
        click.echo(f"removed: {path}")
    if wrong := sum(finding.state == doctor.ERROR for finding in findings):
        said = "were wrong; look again: dsrg doctor" if gone else "are wrong"
        raise InputError(f"{wrong} of {len(findings)} lines {said}")
    click.echo(f"fine: {len(findings)} lines, none wrong")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--recipe", help="Recipe to start from, a name in recipes/.  [default: by the layout]")
@click.option("--force", is_flag=True, help="Replace a params.yaml that was worked on.")
def init(folder: Path, recipe: str | None, force: bool) -> None:
    """Look at a folder of images, write params.yaml for it, and say what was found and what is missing.

    Knows a folder with a table of tags, COCO's JSON files and PASCAL VOC's layout. Opens no image: `dsrg check` does.
    """
    import shlex

    from dsrg.files import read_text, write_text
    from dsrg.networks.weights import imagenet_fault
    from dsrg.sources.detect import FROM_SCRATCH, SIZED_FOR, first_look, fitted, guess, is_own_work, params_text

    found = guess(folder)
    root, here, params, recipes = found.root.resolve(), Path.cwd(), Path("params.yaml"), Path("recipes")
    named = root.relative_to(here) if root.is_relative_to(here) else root
    name = recipe or found.recipe
    fault = imagenet_fault("mobilenet_v2") if name == "folder" and not recipe else None
    if fault:
        name = FROM_SCRATCH
    recipe_path = recipes / f"{name}.yaml"
    text = params_text(recipe_path, found.data | {"root": named.as_posix()})
    has, lacks, notes, images = first_look(text, named)
    if not images:
        raise InputError([f"{named}: {found.layout}, but no image to train on", *lacks, *notes, *found.unused])
    if not recipe and name in SIZED_FOR:
        text = fitted(text, images, sized_for=SIZED_FOR[name])
    if not force and is_own_work(params, recipes) and read_text(params) != text:
        raise InputError(
            f"{params}: differs from every recipe, worked on or written for other images; keep it, or say --force"
        )
    write_text(params, text)
    click.echo("\n".join([f"{named}: {found.layout}", *(f"  has {line}" for line in (*found.has, *has))]))
    for line in report_problems(lacks):
        click.echo(f"missing: {line}")
    for line in (*notes, *found.unused):
        click.echo(f"note: {line}")
    if fault:
        click.echo(
            f"missing: ImageNet weights, so a small network is trained from nothing, enough for drawings and a few "
            f"plain things, not for photographs ({fault}); with the weights in place: "
            f"dsrg init {shlex.quote(str(folder))} --force"
        )
    click.echo(f"{params}: written from {recipe_path}; look at its section data, then run: dsrg check")


@main.command()
@click.argument("dataset", type=click.Choice(["voc2012"]))
@click.option("--root", type=click.Path(path_type=Path), default="data", show_default=True, help="Folder to fill.")
def download(dataset: str, root: Path) -> None:
    """Fetch PASCAL VOC 2012 and what SBD adds to it (3.4 GB), as far as it is not in place yet."""
    from dsrg.sources.download import VOC2012, download_voc2012

    voc = download_voc2012(root, release=VOC2012)
    click.echo(f"fine: {voc}: {VOC2012.trainaug:,} images in trainaug, {VOC2012.lists['val']:,} in val")
    click.echo(f"Set data.root: {voc}, data.train: trainaug and data.val: val in params.yaml.")
    click.echo(f"Not needed any more: {root / VOC2012.voc.name} and {root / VOC2012.sbd.name}")
