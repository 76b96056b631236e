"""params.yaml as typed, validated models: every number that changes a result, with its range.

One class per section. Units and origins stand as comments in params.yaml itself, beside the values; this file holds
types, ranges and the rules between keys. Unknown keys and values out of range are errors that name the key's path.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from dsrg.errors import InputError
from dsrg.files import read_yaml

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
MinProb = Annotated[float, Field(gt=0, lt=0.01)]
Count = Annotated[int, Field(ge=1)]
Batch = Annotated[int, Field(ge=1, le=4096)]  # images; far above what memory holds at the sizes of any network
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _grid_size(size: int) -> int:
    if size % 8 != 1:
        raise ValueError(f"must be 8k+1, so that grid and image share their corners (321 -> 41), not {size}")
    return size


GridSize = Annotated[int, Field(ge=9), AfterValidator(_grid_size)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)  # built when used

    ordered: ClassVar[tuple[tuple[str, str], ...]] = ()  # pairs of keys, the first of which must not be the larger one

    @model_validator(mode="after")
    def _ordered(self) -> "Section":
        for low, high in self.ordered:
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} must not be larger than {high}")
        return self


class ShapesParams(Section):
    ordered = ("size_min", "size_max"), ("cover_min", "cover_max")

    train: Count
    val: Count
    size_min: Annotated[int, Field(ge=64, le=1024)]
    size_max: Annotated[int, Field(ge=64, le=1024)]
    objects_max: Annotated[int, Field(ge=1, le=5)]
    clutter_max: Annotated[int, Field(ge=0)]
    cover_min: Annotated[float, Field(gt=0, le=1)]
    cover_max: Annotated[float, Field(gt=0, le=1)]
    hue_spread: Annotated[float, Field(ge=0, le=180)]
    coat_spread: Annotated[float, Field(ge=0, le=180)]
    seed: Seed


class Data(Section):
    source: Literal["voc", "folder", "coco"]
    root: str
    tags: str | None
    separator: Annotated[str, Field(min_length=1)]
    train: str
    val: str | None
    val_share: Annotated[float, Field(ge=0, lt=1)]
    split_seed: Seed
    untagged: Literal["background", "bad"]
    on_bad: Literal["fail", "skip"]
    size: GridSize
    max_side: Annotated[int, Field(ge=16)]
    pixels_max: Annotated[int, Field(ge=1, le=178_956_970)]  # where Pillow speaks of bombs
    points: Annotated[str, Field(min_length=1)] | None
    points_tags: Literal["add", "refuse"]

    @model_validator(mode="after")
    def _table(self) -> "Data":
        if self.source == "folder" and not self.tags:
            raise ValueError("source: folder needs tags, the table with the columns image and tags")
        return self


BACKBONES = ("vgg_mini", "vgg16", "resnet101", "mobilenet_v2")


def _backbone(name: str) -> str:
    if name not in BACKBONES and not re.fullmatch(r"timm:[\w.]+", name):
        raise ValueError(f"expected {', '.join(BACKBONES)} or timm:NAME, not {name!r}")
    return name


class Clicks(Section):
    unsure_below: Fraction
    per_image: NonNegative
    per_click: NonNegative


class NetworkParams(Section):
    backbone: Annotated[str, AfterValidator(_backbone)]
    weights: str | None
    output_stride: Literal[8, 16]
    head: Literal["aspp", "largefov"]
    head_channels: Count
    head_layers: Literal[1, 2, 3]
    rates: Annotated[list[Count], Field(min_length=1)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    features_rms: Positive
    init_std: Positive
    input: Literal["torchvision", "caffe", "caffe_rgb"]

    @model_validator(mode="after")
    def _fitting(self) -> "NetworkParams":
        if self.weights == "imagenet" and self.input != "torchvision":
            raise ValueError("weights: imagenet are torchvision's, so input must be torchvision")
        if self.head == "largefov" and len(self.rates) != 1:
            raise ValueError(f"head: largefov has one branch, so rates needs one value, not {self.rates}")
        return self


class Optimizer(Section):
    name: Literal["sgd", "adamw"]
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    beta2: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegative
    head_lr: Positive
    bias_lr: Positive
    schedule: Literal["step", "poly", "constant"]
    step_every: Count
    step_factor: Annotated[float, Field(gt=0, le=1)]
    poly_power: Positive
    warmup: Annotated[int, Field(ge=0)]


class Augment(Section):
    ordered = (("scale_min", "scale_max"),)

    shape: Literal["square", "native"]
    flip: bool
    scale_min: Positive
    scale_max: Positive
    color: Annotated[float, Field(ge=0, lt=1)]


TRAININGS = ("cam", "dsrg", "retrain")


class Training(Section):
    network: dict[str, Any] | None  # params `network` that differ for this training, see `Params.network_of`
    steps: Count
    batch: Batch
    precision: Literal["fp32", "bf16"]
    skip_bad_steps: Annotated[int, Field(ge=0)]
    optimizer: Optimizer  # whole: in params.yaml stand the keys that differ, see `Params._optimizers`
    augment: Augment


class Cam(Training):
    score_scale: Positive
    score_offset: float
    dropout: Annotated[float, Field(ge=0, lt=1)]
    init_std: Positive
    erase_rounds: Annotated[int, Field(ge=1, le=10)]
    erase_thresh: Fraction


class Rbd(Section):
    superpixels: Annotated[int, Field(ge=4, le=2000)]
    sigma_color: Positive
    optimize: bool


class Mbd(Section):
    side: Annotated[int, Field(ge=16)]
    passes: Annotated[int, Field(ge=1, le=20)]
    borders: Annotated[list[Literal["top", "bottom", "left", "right"]], Field(min_length=1)]


class Saliency(Section):
    method: Literal["rbd", "mbd", "combined", "maps", "cam", "gradient"]
    with_cam: bool
    maps: str | None
    rbd: Rbd
    mbd: Mbd

    @model_validator(mode="after")
    def _maps(self) -> "Saliency":
        if self.method == "maps" and not self.maps:
            raise ValueError("method: maps needs maps, the folder that holds ID.png for every training image")
        return self


class CrfKernel(Section):
    gaussian_weight: NonNegative
    gaussian_xy: Positive
    bilateral_weight: NonNegative
    bilateral_xy: Positive
    bilateral_rgb: Positive
    iterations: Annotated[int, Field(ge=0, le=100)]
    min_prob: Annotated[float, Field(gt=0, lt=0.1)]

    @property
    def kernel(self) -> dict[str, float]:
        """The keywords of `dense_crf`: all of these but min_prob."""
        return {name: getattr(self, name) for name in CrfKernel.model_fields if name != "min_prob"}


class SeedCrf(CrfKernel):
    use: Literal["none", "agree", "replace"]
    background: Annotated[float, Field(gt=0, le=1)]


class SeedParams(Section):
    scales: Annotated[list[Positive], Field(min_length=1)]
    flip: bool
    maps: Literal["cam", "dcsm"]
    candidates: Count
    fg_thresh: Fraction
    bg_thresh: Fraction
    conflict: Literal["smaller", "unlabeled"]
    rule: Literal["thresholds", "harmonic"]
    harmonic: Annotated[float, Field(gt=0, le=1)]
    crf: SeedCrf
    cues: str | None
    cues_list: str | None
    cues_size: GridSize | None
    cues_use: Literal["all", "foreground"]
    overlays: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _cues(self) -> "SeedParams":
        if (self.cues is None) != (self.cues_list is None):
            raise ValueError("cues and cues_list go together: the pickle, and the list that its rows follow")
        return self

    @property
    def maps_wanted(self) -> dict[str, Any]:
        """Arguments of `dsrg.inference.cams.tag_maps`."""
        candidates = self.candidates if self.maps == "dcsm" else None
        return {"scales": self.scales, "flip": self.flip, "candidates": candidates}

    @property
    def thresholded(self) -> bool:
        """Whether seeds depend on fg_thresh and bg_thresh."""
        return self.rule == "thresholds" and self.crf.use != "replace"


class TrainCrf(CrfKernel):
    unary: Literal["logp", "prob"]


class Crf(Section):
    train: TrainCrf
    test: CrfKernel


class Grow(Section):
    enabled: bool
    on: Literal["crf", "softmax", "both"]
    fg_thresh: Fraction
    bg_thresh: Fraction
    start: Annotated[int, Field(ge=0)]


class Sec(Section):
    min_prob: MinProb
    expand_fg: Fraction
    expand_bg: Fraction


class MilLse(Section):
    sharpness: Positive


class Ccnn(Section):
    ordered = (("bg_min", "bg_max"),)

    bg_min: Annotated[float, Field(gt=0, lt=1)]
    bg_max: Annotated[float, Field(gt=0, lt=1)]
    fg_min: Fraction
    fg_slack: NonNegative


class EmAdapt(Section):
    bg_share: Fraction
    fg_share: Fraction
    passes: Annotated[int, Field(ge=1, le=100)]
    bg_bias: float | None
    fg_bias: float | None

    @model_validator(mode="after")
    def _both(self) -> "EmAdapt":
        if (self.bg_bias is None) != (self.fg_bias is None):
            raise ValueError("bg_bias and fg_bias go together: EM-Fixed has both, EM-Adapt none")
        return self


class Bfbp(Section):
    sharpness: Positive
    min_prob: MinProb


class Weak(Section):
    """Settings of the losses of dsrg.method.weak, by their names."""

    sec: Sec
    mil: Section
    mil_lse: MilLse
    ccnn: Ccnn
    em_adapt: EmAdapt
    bfbp: Bfbp
    psl: Section


class Dsrg(Training):
    objective: Literal[("dsrg", *Weak.model_fields)]
    init: Literal["weights", "cam"]
    seed_loss: Literal["balanced", "plain"]
    boundary_loss: bool
    boundary_clip: Annotated[float, Field(gt=1)] | None
    crf_gradient: bool
    min_prob: MinProb
    watch_images: Annotated[int, Field(ge=0)]
    watch_times: Annotated[int, Field(ge=1, le=20)]


class PredictParams(Section):
    shape: Literal["square", "native"]
    scales: Annotated[list[Positive], Field(min_length=1)]
    flip: bool
    merge: Literal["sum", "mean"]
    max_side: Annotated[int, Field(ge=1)]

    @property
    def pooled_prior(self) -> float | None:
        """Sharpness of the image-level prior, see `dsrg.inference.predict.image_prior`; None = there is none."""
        return None


class PseudoLabels(PredictParams):
    crf: bool
    tags_only: bool
    unsure_below: Fraction
    format: Literal["png", "shards"]
    overlays: Annotated[int, Field(ge=0)]


class Retrain(Training):
    init: Literal["dsrg", "weights"]
    rounds: Annotated[int, Field(ge=1, le=20)]
    loss: Literal["cross_entropy", "balanced"]
    min_prob: MinProb


class Evaluate(PredictParams):
    prior: Literal["none", "lse"]
    prior_sharpness: Positive
    overlays: Annotated[int, Field(ge=0)]

    @property
    def pooled_prior(self) -> float | None:
        return self.prior_sharpness if self.prior == "lse" else None


class Params(Section):
    seed: Seed
    shapes: ShapesParams
    data: Data
    clicks: Clicks
    network: NetworkParams
    optimizer: Optimizer
    cam: Cam
    saliency: Saliency
    seeds: SeedParams
    crf: Crf
    grow: Grow
    dsrg: Dsrg
    weak: Weak
    pseudo_labels: PseudoLabels
    retrain: Retrain
    evaluate: Evaluate

    @model_validator(mode="before")
    @classmethod
    def _optimizers(cls, values: dict) -> dict:
        """Each training's optimizer is params `optimizer`, but for the keys that the training's own names."""
        common = values.get("optimizer")
        for name in TRAININGS if isinstance(common, dict) else ():
            section = values.get(name)
            if isinstance(section, dict) and isinstance(own := section.get("optimizer", ""), dict | None):
                values = values | {name: section | {"optimizer": common | (own or {})}}
        return values

    def network_of(self, training: Literal["cam", "dsrg", "retrain"]) -> NetworkParams:
        """The network of a training: params `network`, but for what the training's own `network` says.

        Raises ValidationError where the two do not go together; `load_params` has seen to that.
        """
        values = vars(self.network) | (getattr(self, training).network or {})
        whole = NetworkParams.model_fields.keys() <= values.keys()
        return NetworkParams(**values) if whole else NetworkParams.model_construct(**values)


def restricted(section: Section, keys: Iterable[str]) -> Section:
    """The same params with nothing but these dotted keys: reading any other is an AttributeError.

    >>> grow = restricted(Grow(enabled=True, on="crf", fg_thresh=0.9, bg_thresh=0.9, start=0), ["on"])
    >>> grow.on, hasattr(grow, "start")
    ('crf', False)
    """
    wanted: dict[str, list[str]] = {}
    for key in keys:
        name, _, rest = key.partition(".")
        wanted.setdefault(name, []).append(rest)
    whole = {name: getattr(section, name) for name in wanted}
    parts = {name: whole[name] if "" in rest else restricted(whole[name], rest) for name, rest in wanted.items()}
    return type(section).model_construct(**parts)


RENAMED = {"optimiser": "optimizer", "colour": "color"}  # keys of older params files


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and validate a whole params file.

    YAML 1.2 rules, so that `1e-5`, as `dvc exp run -S lr=1e-5` writes it, is a number.
    Raises InputError with every offending key at once.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: not found; run from the project's root, or copy a file of recipes/ to params.yaml")
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected sections such as `seeds:` and `grow:`, found {type(raw).__name__}")
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        found = (problem for problem in error.errors() if not _inherited(raw, *problem["loc"]))
        raise InputError([_explain(path, problem) for problem in found]) from None
    problems = list(_network_problems(path, params))
    by_classifier = params.saliency.with_cam or params.saliency.method in ("cam", "gradient")
    if params.seeds.cues is not None and params.seeds.cues_use == "foreground" and by_classifier:
        problems.append(
            f"{path}: seeds.cues_use: foreground takes its background from a saliency map that needs no classifier: "
            "use saliency.method mbd, rbd, combined or maps, and saliency.with_cam: false"
        )
    if problems:
        raise InputError(problems)
    return params


def _inherited(raw: dict, training: str = "", section: str = "", key: str = "", *_: object) -> bool:
    """Is this a key of a training's optimizer that stands in `optimizer` alone, where it is reported?"""
    if section != "optimizer" or training not in TRAININGS:
        return False
    own = raw[training].get("optimizer", "")
    return own is None or isinstance(own, dict) and key not in own


def _network_problems(path: Path, params: Params) -> Iterator[str]:
    """What is wrong with the trainings' own networks, or keeps one from starting with the weights of another."""
    networks = {}
    for training in TRAININGS:
        try:
            networks[training] = params.network_of(training).model_dump(exclude={"weights"})
        except ValidationError as error:
            for problem in error.errors():
                yield _explain(path, {**problem, "loc": (training, "network", *problem["loc"])})
    if len(networks) < len(TRAININGS):
        return
    cam, dsrg, retrain = networks.values()
    if params.dsrg.init == "cam" and cam["backbone"] != dsrg["backbone"]:
        yield (
            f"{path}: dsrg.init: cam starts from the classifier's backbone, {cam['backbone']}, but the network is "
            f"{dsrg['backbone']}; use dsrg.init: weights, or one backbone for both"
        )
    if params.retrain.init == "dsrg" and (odd := _unlike(dsrg, retrain)):
        yield (
            f"{path}: retrain.init: dsrg starts from the weights of the DSRG network, which has another "
            f"{', '.join(odd)}; use retrain.init: weights, or one network for both"
        )


def _unlike(network: dict[str, object], other: dict[str, object]) -> list[str]:
    """The keys by which a network's weights do not fit another, or mean something else there.

    Strides and dilation rates have no weights: a network may go on at a finer stride, with as many branches.
    """
    keys = ("backbone", "input", "head", "head_channels", "head_layers")
    odd = [key for key in keys if network[key] != other[key]]
    return odd + (["number of rates"] if len(network["rates"]) != len(other["rates"]) else [])


def _explain(path: Path, problem: dict) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "extra_forbidden" if (old := problem["loc"][-1]) in RENAMED:
            return f"{path}: {key}: is called {RENAMED[old]} now; rename it"
        case "extra_forbidden":
            return f"{path}: {key}: no such parameter; a typo? Recipes in recipes/ show every key"
        case "missing" if key == "optimizer":
            return (
                f"{path}: optimizer: missing; what all trainings share stands there now: move dsrg.optimizer there, "
                "and leave in cam.optimizer, dsrg.optimizer and retrain.optimizer the keys that differ, or null"
            )
        case "missing":
            return f"{path}: {key}: missing; recipes in recipes/ show every key"
        case "value_error":
            return f"{path}: {key or 'top level'}: {problem['ctx']['error']}"
    return f"{path}: {key}: {problem['msg']}, not {repr(problem['input'])[:200]}"
