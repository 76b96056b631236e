"""The command `dsrg`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsrg.errors import InputError

if TYPE_CHECKING:
    from dsrg.data.index import Index


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
        read = scan(
            data.source,
            stage.data_root,
            train=data.train,
            val=data.val,
            tags=data.tags,
            separator=data.separator,
            val_share=data.val_share,
            split_seed=data.split_seed,
        )
        checked = check_records(read, pixels_max=data.pixels_max, on_bad=data.on_bad, untagged=data.untagged)
        warnings = checked.warnings
        found = {split: len(checked.index.split(split)) for split in ("train", "val")}
        found["masks"] = len(checked.ground_truth)
        found["skipped"] = [fault.problem for fault in checked.skipped]
        found["classes"] = _images_per_class(checked.index, read.classes)
    except InputError as error:
        problems = error.problems
    if json_path is not None:
        write_json(json_path, {"problems": problems, "warnings": warnings, **found})
    if found:
        _print_table(found["classes"])
    for warning in warnings:
        click.echo(f"warning: {warning}")
    for problem in found.get("skipped", []):
        click.echo(f"left out: {problem}")
    if problems:
        raise InputError([*problems, f"{len(problems)} problem{'s' * (len(problems) > 1)}"])
    click.echo(f"fine: {found['train']} training images, {found['val']} evaluation images, {found['masks']} masks")


def _images_per_class(index: "Index", classes: list[str]) -> dict[str, dict[str, int]]:
    """How many images of each split have a class among their tags."""
    counts = {split: index.split(split).present[:, 1:].sum(axis=0).tolist() for split in ("train", "val")}
    return {name: {split: counts[split][k] for split in counts} for k, name in enumerate(classes)}


def _print_table(classes: dict[str, dict[str, int]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("class", box=None)
    for split in ("training images", "evaluation images"):
        table.add_column(split, justify="right")
    for name, counts in classes.items():
        table.add_row(escape(name), str(counts["train"]), str(counts["val"]))
    Console().print(table)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--recipe", help="Recipe to start from, a name in recipes/.  [default: by the layout]")
@click.option("--force", is_flag=True, help="Replace a params.yaml that was worked on.")
def init(folder: Path, recipe: str | None, force: bool) -> None:
    """Look at a folder of images, write params.yaml for it, and say what was found and what is missing.

    Knows a folder with a table of tags, COCO's JSON files and PASCAL VOC's layout. Opens no image: `dsrg check` does.
    """
    from dsrg.data.guess import first_look, guess, is_own_work, params_text
    from dsrg.files import read_text, write_text

    found = guess(folder)
    root, here, params, recipes = found.root.resolve(), Path.cwd(), Path("params.yaml"), Path("recipes")
    named = root.relative_to(here) if root.is_relative_to(here) else root
    recipe_path = recipes / f"{recipe or found.recipe}.yaml"
    text = params_text(recipe_path, found.data | {"root": named.as_posix()})
    if not force and is_own_work(params, recipes) and read_text(params) != text:
        raise InputError(f"{params}: differs from every recipe, so somebody has worked on it; keep it, or say --force")
    has, lacks = first_look(text, named)
    write_text(params, text)
    click.echo("\n".join([f"{named}: {found.layout}", *(f"  has {line}" for line in has)]))
    for line in lacks:
        click.echo(f"missing: {line}")
    click.echo(f"{params}: written from {recipe_path}; look at its section data, then run: dsrg check")


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


@main.command("import-cues")
@click.argument("cues", type=click.Path(path_type=Path), metavar="CUES.pickle")
@click.option("--list", "list_path", type=click.Path(path_type=Path), required=True, help="Its input_list.txt.")
@click.option("--out", type=click.Path(path_type=Path), help="Seeds to write.  [default: data/seeds.h5]")
@click.option(
    "--conflict",
    type=click.Choice(["highest", "unlabelled"]),
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
    from dsrg.data.classes import read_classes
    from dsrg.data.index import read_index
    from dsrg.networks.network import grid_size
    from dsrg.pipeline import load_stage

    stage = load_stage("import-cues")
    out, grid = out or stage.file["seeds"], grid_size(stage.params.data.size)
    classes = read_classes(stage.file["classes"])
    index = read_index(stage.file["index"], classes).split("train")
    found = read_cues(cues, list_path, index, grid=grid, classes=classes, conflict=conflict)
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
    from dsrg.data.classes import read_classes
    from dsrg.pipeline import load_stage

    stage = load_stage("export-cues")
    found = read_seeds(seeds or stage.file["seeds"], classes=read_classes(stage.file["classes"]))
    write_cues(out, list_path, found)
    click.echo(f"{out}, {list_path}: cues of {len(found.ids)} images")


@main.command()
@click.argument("dataset", type=click.Choice(["voc2012"]))
@click.option("--root", type=click.Path(path_type=Path), default="data", show_default=True, help="Folder to fill.")
def download(dataset: str, root: Path) -> None:
    """Fetch PASCAL VOC 2012 and what SBD adds to it (3.4 GB); what is in place already is not fetched again."""
    from dsrg.data.download import VOC2012, download_voc2012

    voc = download_voc2012(root, release=VOC2012)
    click.echo(f"fine: {voc}: {VOC2012.trainaug:,} images in trainaug, {VOC2012.lists['val']:,} in val")
    click.echo(f"Set data.root: {voc}, data.train: trainaug and data.val: val in params.yaml.")
    click.echo(f"Not needed any more: {root / VOC2012.voc.name} and {root / VOC2012.sbd.name}")


@main.command()
@click.option("--list", "name", default="test", show_default=True, help="List in ImageSets/Segmentation to predict.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="tar.gz to write.")
def submission(name: str, out: Path) -> None:
    """Predict a list of VOC's images with the final network, into a checked archive for VOC's evaluation server."""
    from dsrg.artifacts.submission import write_submission
    from dsrg.data.classes import VOC_CLASSES
    from dsrg.data.voc import untagged_index
    from dsrg.inference.predict import label_maps, load_segmenter, prediction_jobs
    from dsrg.pipeline import load_stage
    from dsrg.progress import tracked

    stage = load_stage("submission")
    params = stage.params
    segmenter, model = load_segmenter(stage.file["retrain"], made_by="retrain")
    if model.classes != VOC_CLASSES:
        span = f"{len(model.classes)} classes ({model.classes[0]} ... {model.classes[-1]})"
        raise InputError(f"{stage.file['retrain']}: knows {span}; the evaluation server expects VOC's twenty, in order")
    index = untagged_index(stage.data_root, name, model.classes, key="--list", pixels_max=params.data.pixels_max)
    jobs = prediction_jobs(
        segmenter,
        index,
        stage.data_root,
        params.evaluate,
        size=model.size,
        kernel=params.crf.test.model_dump(),
        tags_only=False,
        unsure_below=0,
    )
    shapes = dict(zip(index.ids, zip(index.heights.tolist(), index.widths.tolist(), strict=True), strict=True))
    write_submission(out, shapes, tracked(label_maps(jobs), "submission", len(index)))
    click.echo(f"{out}: {len(index)} label maps, checked")
