"""The command `dsrg`."""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsrg.errors import InputError, RunError
from dsrg.runtime.problems import report_problems

if TYPE_CHECKING:
    from dsrg.data.index import Index


class _Group(click.Group):
    """Turns an InputError into its message and exit code 2, a RunError into its own and 1."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except (InputError, RunError) as error:
            lines = report_problems(error.problems) if isinstance(error, InputError) else [str(error)]
            click.echo("\n".join([*lines, *getattr(error, "__notes__", [])]), err=True)
            sys.exit(2 if isinstance(error, InputError) else 1)


@click.group(cls=_Group, context_settings={"max_content_width": 120})
@click.version_option(package_name="dsrg")
def main() -> None:
    """Image tags to pixel masks by Deep Seeded Region Growing.

    The pipeline itself runs with `dvc repro`; these commands look at what goes in and what comes out.
    """


@main.command()
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the findings to this file too.")
def check(json_path: Path | None) -> None:
    """Check params.yaml, what it names, and every image, tag and mask, without writing anything else."""
    from dsrg.data.sources import read_source
    from dsrg.files import write_json
    from dsrg.pipeline import load_stage
    from dsrg.preflight import missing_files, unfit_files

    problems, warnings, found = [], [], {}
    try:
        stage = load_stage("prepare")
        problems = missing_files(stage.params)
        settings = stage.params.data.model_dump(exclude={"root", "size", "max_side", "points", "points_tags"})
        classes, checked = read_source(stage.data_root, **settings)
        problems += unfit_files(stage.params, checked.index, classes)
        warnings = checked.warnings
        found = {split: len(checked.index.split(split)) for split in ("train", "val")}
        found["masks"] = len(checked.ground_truth)
        found["skipped"] = [fault.problem for fault in checked.skipped]
        found["classes"] = _images_per_class(checked.index, classes)
    except InputError as error:
        problems = [*problems, *error.problems]
    if json_path is not None:
        write_json(json_path, {"problems": problems, "warnings": warnings, **found})
    if found:
        _print_table(found["classes"])
    for warning in warnings:
        click.echo(f"warning: {warning}")
    for problem in report_problems(found.get("skipped", []), name="left-out"):
        click.echo(f"left out: {problem}")
    _refuse(problems)
    click.echo(f"fine: {found['train']} training images, {found['val']} evaluation images, {found['masks']} masks")


def _refuse(problems: list[str]) -> None:
    """Raise an InputError with all problems and their number, if there are any."""
    if problems:
        error = InputError(problems)
        error.add_note(f"{len(problems)} problem{'s' * (len(problems) > 1)}")
        raise error


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
@click.option("--fix", is_flag=True, help="Remove what is damaged in DVC's cache and what killed runs left.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the findings to this file too.")
def doctor(fix: bool, json_path: Path | None) -> None:
    """Look at the machine, the project, every image and artefact and DVC's cache, and say what is wrong.

    Reads everything, so it takes as long as the disk does. Exit code 0: nothing is wrong; 2: something is. Removes
    nothing unless told to.
    """
    from itertools import chain

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from dsrg import doctor
    from dsrg.files import write_json
    from dsrg.pipeline import load_stage

    try:
        stage = load_stage("doctor")
        places = {path.parent for path in stage.file.values()} - {Path(".")} | {stage.file["results"]}
        own = doctor.look_at_data(stage.file, stage.data_root)
    except InputError:
        places, own = {Path("data"), Path("results")}, []  # why, is told among the project's lines
    looks = (
        doctor.look_at_machine(Path("constraints.txt")),
        doctor.look_at_project(sorted(places)),
        own,
        doctor.look_at_cache(),
    )
    findings = list(chain.from_iterable(looks))
    table = Table(box=None, show_header=False)
    for finding in findings:
        table.add_row(escape(finding.what), finding.state, escape(finding.said))
    Console().print(table)
    if json_path is not None:
        rows = [finding._asdict() | {"remove": [str(path) for path in finding.remove]} for finding in findings]
        write_json(json_path, {"findings": rows})
    gone = doctor.mend(findings) if fix else []
    for path in gone:
        click.echo(f"removed: {path}")
    if wrong := sum(finding.state == doctor.WRONG for finding in findings):
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

    from dsrg.data.guess import FROM_SCRATCH, SIZED_FOR, first_look, fitted, guess, is_own_work, params_text
    from dsrg.files import read_text, write_text
    from dsrg.networks.weights import imagenet_fault

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
    if not recipe and name in SIZED_FOR and images:
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
@click.argument("image_id")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="PNG to write.")
def show(image_id: str, out: Path) -> None:
    """Draw one image's whole way, from activation maps to prediction, into a PNG."""
    from dsrg.figures.journey import draw_journey
    from dsrg.pipeline import load_stage

    stage = load_stage("show")
    draw_journey(image_id, out, file=stage.file, root=stage.data_root, params=stage.params)
    click.echo(str(out))


@main.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="HTML file to write.")
def report(out: Path) -> None:
    """Copy results/report.html, the page of the last run, and add how long each stage took.

    The page itself has no times, so that the same params give the same files.
    """
    from dsrg.figures.report import with_times
    from dsrg.files import read_text, write_text
    from dsrg.pipeline import load_stage, read_seconds

    page = load_stage("report").file["report"]
    if not page.is_file():
        raise InputError(f"{page}: not made yet; run `dvc repro evaluate`")
    write_text(out, with_times(read_text(page), read_seconds()))
    click.echo(str(out))


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 = any free one.")
@click.option("--browser/--no-browser", default=True, help="Open the page in a browser.")
@click.option("--rev", help="Another run to show beside: a DVC experiment, a commit, a branch or a tag.")
def inspect(port: int, browser: bool, rev: str | None) -> None:
    """Look at seeds, growth and results of every image in a browser, and try other thresholds.

    The page is served from here to this machine alone, reads what the stages have made and writes nothing. From another
    machine: `ssh -L 8765:127.0.0.1:8765 THIS_ONE`. End it with Ctrl-C.
    """
    import tempfile
    import webbrowser

    from dsrg.inspect.project import Project
    from dsrg.inspect.revision import project_at
    from dsrg.inspect.server import Other, serve
    from dsrg.pipeline import load_stage

    stage = load_stage("inspect")
    project = Project(file=stage.file, root=stage.data_root, params=stage.params)

    def ready(address: str) -> None:
        click.echo(address)
        if browser:
            webbrowser.open(address)

    with tempfile.TemporaryDirectory(prefix="dsrg-inspect-") as folder:
        other = rev and Other(rev, project_at(rev, Path(folder), file=stage.file, root=stage.data_root))
        serve(project, port=port, ready=ready, other=other or None)


@main.command()
@click.option("--images", type=click.IntRange(2), default=200, show_default=True, help="Training images, drawn.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/advise"), show_default=True)
def advise(images: int, out: Path) -> None:
    """Advise seeds.fg_thresh and seeds.bg_thresh where there are no masks, by tags and images alone.

    Runs after the stage make_seeds: makes seeds at every twentieth of both thresholds, writes OUT/advice.png and
    OUT/advice.json, and names a range with its reason.
    """
    from dsrg.advise.figure import draw_advice
    from dsrg.advise.sweep import Sweep, findings, swept, words
    from dsrg.files import write_json
    from dsrg.pipeline import load_stage

    stage = load_stage("advise")
    sweep = Sweep(stage.params.seeds)
    for _ in swept(sweep, file=stage.file, root=stage.data_root, params=stage.params, images=images):
        pass
    found = findings(sweep, stage.params)
    write_json(out / "advice.json", found)
    draw_advice(out / "advice.png", found)
    click.echo("\n".join([*words(found), f"{out / 'advice.png'}, {out / 'advice.json'}"]))


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
    from dsrg.method.grid import grid_size
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
    """Fetch PASCAL VOC 2012 and what SBD adds to it (3.4 GB), as far as it is not in place yet."""
    from dsrg.data.download import VOC2012, download_voc2012

    voc = download_voc2012(root, release=VOC2012)
    click.echo(f"fine: {voc}: {VOC2012.trainaug:,} images in trainaug, {VOC2012.lists['val']:,} in val")
    click.echo(f"Set data.root: {voc}, data.train: trainaug and data.val: val in params.yaml.")
    click.echo(f"Not needed any more: {root / VOC2012.voc.name} and {root / VOC2012.sbd.name}")


@main.command()
@click.option("--list", "name", default="test", show_default=True, help="List in ImageSets/Segmentation to predict.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="tar.gz to write.")
def submission(name: str, out: Path) -> None:
    """Predict a list of VOC's images into a checked archive for VOC's evaluation server."""
    from dsrg.artifacts.submission import write_submission
    from dsrg.data.classes import VOC_CLASSES
    from dsrg.data.voc import untagged_index
    from dsrg.inference.predict import load_segmenter, predictions
    from dsrg.inference.preprocess import read_images
    from dsrg.pipeline import load_stage
    from dsrg.runtime.progress import tracked

    stage = load_stage("submission")
    params = stage.params
    segmenter, model = load_segmenter(stage.file["retrain"], made_by="retrain")
    if model.classes != VOC_CLASSES:
        span = f"{len(model.classes)} classes ({model.classes[0]} ... {model.classes[-1]})"
        raise InputError(f"{stage.file['retrain']}: knows {span}; the evaluation server expects VOC's twenty, in order")
    index = untagged_index(stage.data_root, name, model.classes, key="--list", pixels_max=params.data.pixels_max)
    images, wanted = read_images(index, stage.data_root), {"size": model.size, "kernel": params.crf.test.model_dump()}
    labels = (one.labels for one in predictions(segmenter, images, None, params.evaluate, **wanted))
    shapes = dict(zip(index.ids, zip(index.heights.tolist(), index.widths.tolist(), strict=True), strict=True))
    write_submission(out, shapes, tracked(labels, "submission", len(index)))
    click.echo(f"{out}: {len(index)} label maps, checked")


class _Finite(click.FloatRange):
    """A range that holds no NaN either, which is neither below nor above anything."""

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> float:
        number = super().convert(value, param, context)
        return number if math.isfinite(number) else self.fail(f"{value} is no finite number", param, context)


_POSITIVE, _SHARE, _COUNT = _Finite(0, min_open=True), _Finite(0, 1), click.IntRange(1)
_RELEASED = released.CRF | released.PREDICT
_PREDICT_OPTIONS = {
    "--model": {
        "type": click.Path(path_type=Path),
        "default": Path("data/retrain.pt"),
        "help": "Trained network, which knows its classes and its input.",
    },
    "--out": {
        "type": click.Path(path_type=Path),
        "required": True,
        "metavar": "DIR",
        "help": "Folder to make; a new or an empty one.",
    },
    "--overlays": {"is_flag": True, "help": "Also draw the masks over the images (overlays/)."},
    "--probabilities": {"is_flag": True, "help": "Also write every class's probabilities, float16 (probabilities/)."},
    "--polygons": {"is_flag": True, "help": "Also write the regions as polygons, COCO JSON (polygons.json)."},
    "--skip-bad": {"is_flag": True, "help": "Leave out images that cannot be read, instead of stopping."},
    "--shape": {
        "type": click.Choice(["square", "native"]),
        "help": "How the network sees an image: warped to the model's square, as in training, or in its own shape.",
    },
    "--scale": {
        "type": _Finite(0, 4, min_open=True),
        "multiple": True,
        "default": _RELEASED["scales"],
        "help": "Scale at which the network sees an image; several are merged.",
    },
    "--flip/--no-flip": {"help": "See the mirror image too."},
    "--merge": {
        "type": click.Choice(["sum", "mean"]),
        "help": "How scores of several scales are merged; sum sharpens the probabilities.",
    },
    "--unsure-below": {
        "type": _SHARE,
        "default": 0.0,
        "help": "Pixels whose class is less probable become 255, unlabelled.",
    },
    "--max-side": {
        "type": _COUNT,
        "help": "Pixels; a longer image is worked on at this longer side, its mask enlarged to the image's size.",
    },
    "--pixels-max": {"type": _COUNT, "default": released.PIXELS_MAX, "help": "Larger images are refused."},
    "--batch": {"type": _COUNT, "default": 8, "help": "Images in the network at once; changes roundings only."},
    "--device": {
        "type": click.Choice(["auto", "cpu", "cuda"]),
        "default": "auto",
        "help": "Where the network runs; auto = on a GPU if there is one.",
    },
    "--gaussian-weight": {"type": _Finite(0), "help": "CRF: weight of the position kernel."},
    "--gaussian-xy": {"type": _POSITIVE, "help": "CRF: its deviation, pixels."},
    "--bilateral-weight": {"type": _Finite(0), "help": "CRF: weight of the colour kernel."},
    "--bilateral-xy": {"type": _POSITIVE, "help": "CRF: its deviation in place, pixels."},
    "--bilateral-rgb": {"type": _POSITIVE, "help": "CRF: its deviation in colour, 0..255."},
    "--iterations": {"type": click.IntRange(0, 100), "help": "CRF: mean-field updates."},
    "--min-prob": {"type": _Finite(0, 0.1, min_open=True, max_open=True), "help": "CRF: lower bound of probabilities."},
}


def _predict_option(name: str) -> Callable:
    """One of _PREDICT_OPTIONS; those that are params default to the released code's."""
    key = name.split("/")[0].strip("-").replace("-", "_")
    settings = {"default": _RELEASED[key]} if key in _RELEASED else {}
    settings |= _PREDICT_OPTIONS[name]
    return click.option(name, show_default="required" not in settings, **settings)


def _predict_options(command: Callable) -> Callable:
    """What predict and pseudo-label have in common."""
    for name in reversed(_PREDICT_OPTIONS):
        command = _predict_option(name)(command)
    return click.argument("pictures", nargs=-1, required=True, metavar="PICTURES...")(command)


def _crf_option(*, default: bool) -> Callable:
    return click.option(
        "--crf/--no-crf", default=default, show_default=True, help="Follow the image's edges with a CRF; slow."
    )


@main.command()
@_predict_options
@_crf_option(default=False)
def predict(**options: object) -> None:
    """Predict masks of pictures: files, folders, patterns such as 'holiday/**/*.jpg'. No tags are needed.

    DIR/masks/ID.png has exactly the picture's size (turned as its EXIF orientation says) and holds class numbers: 0
    background, k the class on line k of DIR/classes.txt. DIR/images.csv says which picture has which ID: its path below
    the named folder with __ for /, without its ending; where that is the same for several, 8 digits keep them apart.
    """
    _predict(tags=None, separator="|", **options)


@main.command("pseudo-label")
@_predict_options
@_crf_option(default=True)
@click.option(
    "--tags", type=click.Path(path_type=Path), required=True, help="Table with the columns image and tags; or .jsonl."
)
@click.option("--separator", default="|", show_default=True, help="What parts tags within a cell.")
def pseudo_label(**options: object) -> None:
    """Label pictures whose tags are known: as `predict`, but among a picture's tags and background alone."""
    _predict(**options)


def _predict(
    *,
    pictures: tuple[str, ...],
    model: Path,
    out: Path,
    tags: Path | None,
    separator: str,
    overlays: bool,
    probabilities: bool,
    polygons: bool,
    skip_bad: bool,
    crf: bool,
    scale: tuple[float, ...],
    unsure_below: float,
    pixels_max: int,
    batch: int,
    device: str,
    **settings: object,
) -> None:
    from dsrg.artifacts.predictions import PredictionFolder
    from dsrg.data.images import read_image, shrunk
    from dsrg.data.index import present_from_tags
    from dsrg.figures.overlays import overlay, write_picture
    from dsrg.files import whole_folder
    from dsrg.inference.pictures import check_pictures, find_pictures, remark_counts, tags_of
    from dsrg.inference.predict import enlarged
    from dsrg.params import CrfKernel, Predict
    from dsrg.predictor import Segmenter
    from dsrg.runtime.progress import tracked
    from dsrg.runtime.workers import keep_memory, threaded_map

    keep_memory(128 << 20)  # 21 classes' scores at the longest side that is usual
    found, tagged = find_pictures(pictures), None
    checked, problems = check_pictures(found.pictures, pixels_max=pixels_max), found.problems
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        problems.append(f"{out}: exists; name a new or an empty folder (--out)")
    try:
        segmenter = Segmenter.load(model, device=None if device == "auto" else device)
        if tags is not None:
            tagged = tags_of(checked.pictures, tags, segmenter.classes, separator=separator)
    except InputError as error:
        problems += error.problems
    if not skip_bad:
        problems += checked.problems
    elif not checked.pictures:
        problems += [*checked.problems, "no image is left"]
    _refuse(problems)
    for line in [*found.warnings, *remark_counts(checked.facts)]:
        click.echo(f"warning: {line}")
    for line in report_problems(checked.problems, name="left-out"):
        click.echo(f"left out: {line}")

    predictions = segmenter.predictions(
        (read_image(picture.path) for picture in checked.pictures),
        None if tagged is None else present_from_tags(tagged, segmenter.classes),
        settings=Predict(scales=list(scale), **{key: settings[key] for key in Predict.model_fields if key in settings}),
        kernel=CrfKernel(**{key: settings[key] for key in CrfKernel.model_fields}) if crf else None,
        probabilities=probabilities,
        unsure_below=unsure_below,
        batch=batch,
    )
    with whole_folder(out.resolve()) as folder:
        results = PredictionFolder(folder, segmenter.classes, polygons=polygons)

        def write(row: tuple) -> tuple:
            (path, image_id), (labels, _, probs) = row
            results.write(image_id, labels, probs=probs)
            if overlays:
                image = shrunk(read_image(path), settings["max_side"])
                drawn = overlay(image, enlarged(labels, image.shape[:2]))
                write_picture(folder / "overlays" / f"{image_id}.png", drawn)
            return image_id, path, labels

        rows = tracked(zip(checked.pictures, predictions, strict=True), "predict", len(checked.pictures))
        for one in threaded_map(write, rows):
            results.add(*one)
        results.finish()
    click.echo(f"{out}: masks of {len(checked.pictures)} image{'s' * (len(checked.pictures) > 1)}")


@main.command()
@click.option("--model", type=click.Path(path_type=Path), default=Path("data/retrain.pt"), show_default=True)
@click.option("--format", "form", type=click.Choice(["onnx", "torch"]), required=True, help="torch = torch.export.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
@_predict_option("--scale")
@_predict_option("--flip/--no-flip")
@_predict_option("--merge")
def export(model: Path, form: str, out: Path, scale: tuple[float, ...], flip: bool, merge: str) -> None:
    """Hand a network on to other programs, with all that `predict` does without a CRF.

    The file takes images of any size, uint8 (B, 3, H, W), RGB, and gives labels uint8 (B, H, W) and probabilities float
    (B, C+1, H, W). It is run on random images and held against PyTorch before it is kept. A model card is written
    beside it (.md).
    """
    from dsrg.artifacts.model_card import is_model_card, model_card, provenance
    from dsrg.files import write_text
    from dsrg.inference.export import TOLERANCE, Deployed
    from dsrg.inference.export import export as write_network
    from dsrg.params import Predict
    from dsrg.predictor import Segmenter

    card = out.with_suffix(".md")
    if card == out or out.is_dir():
        raise InputError(
            f"{out}: expected a name for the file such as model.{'onnx' if form == 'onnx' else 'pt2'} (--out)"
        )
    if out.exists() and model.exists() and out.samefile(model):
        raise InputError(f"{out}: would replace the network itself (--model); choose another name (--out)")
    if card.is_file() and not is_model_card(card):
        raise InputError(f"{card}: the model card would replace it; choose another name (--out)")
    segmenter = Segmenter.load(model, device="cpu")
    settings = Predict(**released.PREDICT | {"scales": list(scale), "flip": flip, "merge": merge})
    sizes = write_network(Deployed(segmenter.network, settings, size=segmenter.model.size), out, form=form)
    usage = [
        f"- Format: {'ONNX' if form == 'onnx' else 'torch.export'}. Batch, height and width are free.",
        "- `images`: uint8 (B, 3, H, W), RGB, upright, nothing subtracted or divided.",
        "- `labels`: uint8 (B, H, W); `probabilities`: float32 (B, C+1, H, W).",
        f"- Seen as squares at the scales {', '.join(f'{one:g}' for one in scale)} of {segmenter.model.size} pixels, "
        f"{'with' if flip else 'without'} mirror images, scores merged by {merge}.",
        f"- Checked against PyTorch on {', '.join(f'{width} x {height}' for height, width in sizes)} pixels: "
        f"probabilities within {TOLERANCE:g}.",
    ]
    made = provenance(model, Path("dvc.lock"))
    write_text(card, model_card(out.name, segmenter.model, usage=usage, made=made))
    click.echo(f"{out}, {card}: {len(segmenter.classes)} classes, checked on {len(sizes)} sizes")
