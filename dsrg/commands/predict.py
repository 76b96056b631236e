"""Commands that use a trained network: predict, pseudo-label, submission, export."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import click

from dsrg.commands.group import main, quick_imports, refuse
from dsrg.errors import InputError, RunError, collecting
from dsrg.inference import released
from dsrg.runtime.problems import report_problems

if TYPE_CHECKING:
    from dsrg.predictor import Predictor
    from dsrg.sources.pictures import Picture


@main.command()
@click.option("--list", "name", default="test", show_default=True, help="List in ImageSets/Segmentation to predict.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="tar.gz to write.")
def submission(name: str, out: Path) -> None:
    """Predict a list of VOC's images into a checked archive for VOC's evaluation server."""
    from dsrg.artifacts.submission import write_submission
    from dsrg.data.classes import VOC_CLASSES
    from dsrg.inference.predict import load_segmenter, predictions
    from dsrg.inference.preprocess import read_images
    from dsrg.project import load_project
    from dsrg.runtime.progress import tracked
    from dsrg.sources.voc import untagged_index

    project = load_project()
    params = project.params
    segmenter, model = load_segmenter(project.paths.retrain, stage_name="retrain")
    if model.classes != VOC_CLASSES:
        span = f"{len(model.classes)} classes ({model.classes[0]} ... {model.classes[-1]})"
        raise InputError(f"{project.paths.retrain}: knows {span}; the evaluation server expects VOC's twenty, in order")
    index = untagged_index(project.data_root, name, model.classes, key="--list", pixels_max=params.data.pixels_max)
    images, wanted = read_images(index), {"size": model.size, "kernel": params.crf.test}
    labels = (one.labels for one in predictions(segmenter, images, None, params.evaluate, **wanted))
    shapes = dict(zip(index.ids, zip(index.heights.tolist(), index.widths.tolist(), strict=True), strict=True))
    write_submission(out, shapes, tracked(labels, "submission", len(index)))
    click.echo(f"{out}: {len(index)} label maps, checked")


class _Finite(click.FloatRange):
    """A range that holds no NaN either, which is neither below nor above anything."""

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> float:
        number = super().convert(value, param, context)
        return number if math.isfinite(number) else self.fail(f"{value} is no finite number", param, context)


def _option(name: str, help: str, **settings: object) -> Callable:
    """An option of predict; one that is a param defaults to the released code's."""
    key = name.split("/")[0].strip("-").replace("-", "_")
    default = (released.CRF | released.PREDICT).get(key)
    settings = ({} if default is None else {"default": default}) | settings
    return click.option(name, help=help, show_default="required" not in settings, **settings)


_POSITIVE, _COUNT = _Finite(0, min_open=True), click.IntRange(1)
_SCALE = _option(
    "--scale",
    "Scale at which the network sees an image; several are merged.",
    type=_Finite(0, 4, min_open=True),
    multiple=True,
    default=released.PREDICT["scales"],
)
_FLIP = _option("--flip/--no-flip", "See the mirror image too.")
_MERGE = _option(
    "--merge",
    "How scores of several scales are merged; sum sharpens the probabilities.",
    type=click.Choice(["sum", "mean"]),
)
_MODEL = _option(
    "--model",
    "Trained network, which knows its classes and its input.",
    type=click.Path(path_type=Path),
    default=Path("data/retrain.safetensors"),
)
_PREDICT_OPTIONS = [
    _MODEL,
    _option(
        "--out", "Folder to make; a new or an empty one.", type=click.Path(path_type=Path), required=True, metavar="DIR"
    ),
    _option("--overlays", "Also draw the masks over the images (overlays/).", is_flag=True),
    _option("--probabilities", "Also write every class's probabilities, float16 (probabilities/).", is_flag=True),
    _option("--polygons", "Also write the regions as polygons, COCO JSON (polygons.json).", is_flag=True),
    _option("--skip-bad", "Leave out images that cannot be read, instead of stopping.", is_flag=True),
    _option(
        "--shape",
        "How the network sees an image: warped to the model's square, as in training, or in its own shape.",
        type=click.Choice(["square", "native"]),
    ),
    *(_SCALE, _FLIP, _MERGE),
    _option(
        "--unsure-below", "Pixels whose class is less probable become 255, unlabeled.", type=_Finite(0, 1), default=0.0
    ),
    _option(
        "--max-side",
        "Pixels; a longer image is worked on at this longer side, its mask enlarged to the image's size.",
        type=_COUNT,
    ),
    _option("--pixels-max", "Larger images are refused.", type=_COUNT, default=released.PIXELS_MAX),
    _option("--batch", "Images in the network at once; changes roundings only. [default: 2, on a GPU 8]", type=_COUNT),
    _option(
        "--device",
        "Where the network runs; auto = on a GPU if there is one.",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
    ),
    _option("--gaussian-weight", "CRF: weight of the position kernel.", type=_Finite(0)),
    _option("--gaussian-xy", "CRF: its deviation, pixels.", type=_POSITIVE),
    _option("--bilateral-weight", "CRF: weight of the color kernel.", type=_Finite(0)),
    _option("--bilateral-xy", "CRF: its deviation in place, pixels.", type=_POSITIVE),
    _option("--bilateral-rgb", "CRF: its deviation in color, 0..255.", type=_POSITIVE),
    _option("--iterations", "CRF: mean-field updates.", type=click.IntRange(0, 100)),
    _option("--min-prob", "CRF: lower bound of probabilities.", type=_Finite(0, 0.1, min_open=True, max_open=True)),
]


def _predict_options(command: Callable) -> Callable:
    """What predict and pseudo-label have in common."""
    for option in reversed(_PREDICT_OPTIONS):
        command = option(command)
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


def _predict(**options: object) -> None:
    with quick_imports():
        from dsrg.artifacts.predictions import PredictionFolder
        from dsrg.data.images import read_sized
        from dsrg.data.index import present_from_tags
        from dsrg.files import atomic_folder
        from dsrg.inference.predict import enlarged
        from dsrg.params import CrfKernel, PredictParams
        from dsrg.runtime.progress import tracked
        from dsrg.runtime.workers import keep_memory, threaded_map

    keep_memory(128 << 20)  # 21 classes' scores at the longest side that is usual
    asked = SimpleNamespace(**options)
    pictures, segmenter, tagged = _inputs(asked)
    settings = {key: options[key] for key in PredictParams.model_fields if key in options}
    predictions = segmenter.predictions(
        (read_sized(picture.path, asked.max_side) for picture in pictures),
        None if tagged is None else present_from_tags(tagged, segmenter.classes),
        settings=PredictParams(scales=list(asked.scale), **settings),
        kernel=CrfKernel(**{key: options[key] for key in CrfKernel.model_fields}) if asked.crf else None,
        probabilities=asked.probabilities,
        unsure_below=asked.unsure_below,
        batch=asked.batch or (8 if segmenter.on_gpu else 2),  # on a CPU the next ones are decoded the sooner
    )
    with atomic_folder(asked.out.resolve()) as folder:
        results = PredictionFolder(folder, segmenter.classes, polygons=asked.polygons)

        def write(row: tuple) -> tuple:
            (path, image_id), (labels, _, probs) = row
            results.write(image_id, labels, probs=probs)
            if asked.overlays:
                from dsrg.figures.overlays import overlay, write_picture

                image = read_sized(path, asked.max_side).pixels
                drawn = overlay(image, enlarged(labels, image.shape[:2]))
                write_picture(folder / "overlays" / f"{image_id}.png", drawn)
            return image_id, path, labels

        rows = tracked(zip(pictures, predictions, strict=True), "predict", len(pictures))
        for one in threaded_map(write, rows):
            results.add(*one)
        results.finish()
    click.echo(f"{asked.out}: masks of {len(pictures)} image{'s' * (len(pictures) > 1)}")


def _inputs(asked: SimpleNamespace) -> "tuple[list[Picture], Predictor, list[list[str]] | None]":
    """The pictures, the network and the pictures' tags, all problems of theirs refused at once."""
    from dsrg.predictor import Predictor
    from dsrg.sources.pictures import check_pictures, find_pictures, remark_counts, tags_of

    found, tagged = find_pictures(asked.pictures), None
    checked, bad = check_pictures(found.pictures, pixels_max=asked.pixels_max)
    pictures, problems = list(checked), found.problems
    if os.path.lexists(asked.out) and not (asked.out.is_dir() and not any(asked.out.iterdir())):
        problems.append(f"{asked.out}: exists; name a new or an empty folder (--out)")
    with collecting(problems):
        segmenter = Predictor.load(asked.model, device=None if asked.device == "auto" else asked.device)
        if asked.tags is not None:
            tagged = tags_of(pictures, asked.tags, segmenter.classes, separator=asked.separator)
    if not asked.skip_bad:
        problems += bad
    refuse(problems)
    for line in [*found.left_out, *found.warnings, *remark_counts(checked.values())]:
        click.echo(f"warning: {line}")
    for line in report_problems(bad, name="left-out"):
        click.echo(f"left out: {line}")
    if not pictures:
        raise RunError("no image is left to predict")
    return pictures, segmenter, tagged


@main.command()
@_MODEL
@click.option("--format", "form", type=click.Choice(["onnx", "torch"]), required=True, help="torch = torch.export.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
@_SCALE
@_FLIP
@_MERGE
def export(model: Path, form: str, out: Path, scale: tuple[float, ...], flip: bool, merge: str) -> None:
    """Hand a network on to other programs, with all that `predict` does without a CRF.

    The file takes images of any size, uint8 (B, 3, H, W), RGB, and gives labels uint8 (B, H, W) and probabilities float
    (B, C+1, H, W). It is run on random images and compared with PyTorch before it is kept. A model card is written
    beside it (.md).
    """
    from dsrg.artifacts.model_card import is_model_card, model_card, provenance
    from dsrg.files import write_text
    from dsrg.inference.export import TOLERANCE, Deployed
    from dsrg.inference.export import export as write_network
    from dsrg.params import PredictParams
    from dsrg.predictor import Predictor

    card = out.with_suffix(".md")
    if card == out or out.is_dir():
        raise InputError(
            f"{out}: expected a name for the file such as model.{'onnx' if form == 'onnx' else 'pt2'} (--out)"
        )
    if out.exists() and model.exists() and out.samefile(model):
        raise InputError(f"{out}: would replace the network itself (--model); choose another name (--out)")
    if card.is_file() and not is_model_card(card):
        raise InputError(f"{card}: the model card would replace it; choose another name (--out)")
    segmenter = Predictor.load(model, device="cpu")
    settings = PredictParams(**released.PREDICT | {"scales": list(scale), "flip": flip, "merge": merge})
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
