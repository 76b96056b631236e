"""params.yaml: what is accepted, and that everything wrong in it is named at once, by its dotted key."""

import re
from functools import reduce
from operator import attrgetter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dsrg.errors import InputError
from dsrg.files import read_yaml
from dsrg.networks.weights import untrained
from dsrg.params import TRAININGS, load_params
from helpers import ROOT

SHIPPED = [*sorted((ROOT / "recipes").glob("*.yaml")), ROOT / "params.yaml"]


@pytest.fixture
def put(tmp_path):
    """Write params -> their path. Values may be changed by dotted key."""

    def put(changes: dict | None = None, *, without: str = "") -> Path:
        values = read_yaml(ROOT / "recipes/shapes.yaml")
        for dotted, value in (changes or {}).items():
            *sections, key = dotted.split(".")
            section = values
            for name in sections:
                section = section[name]
            section[key] = value
        if without:
            del values[without]
        path = tmp_path / "params.yaml"
        YAML().dump(values, path)
        return path

    return put


def problems(path: Path) -> list[str]:
    with pytest.raises(InputError) as error:
        load_params(path)
    assert "Traceback" not in str(error.value) and "pydantic" not in str(error.value)
    assert error.value.__context__ is None or error.value.__suppress_context__  # the cause is not shown either
    return error.value.problems


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_are_valid(path):
    if not path.exists():
        pytest.skip("no params.yaml here")
    params, values = load_params(path), read_yaml(path)
    for name in TRAININGS:
        own = values[name]["optimizer"] or {}
        assert not own.items() & values["optimizer"].items(), "what does not differ is not said twice"
        values[name]["optimizer"] = values["optimizer"] | own
    assert params.model_dump() == values


SOURCES = ("vgg16", "vgg16-released", "sec")
NUMBERS = {  # of the article, of its released code, of SEC; ours where a source is silent
    "data.size": (321, 321, 321),
    "network.rates": ([6, 12, 18, 24], [6, 12, 18, 24], [12]),
    "cam.steps": (8000, 8000, 8000),
    "cam.batch": (15, 15, 15),
    "cam.optimizer.lr": (1e-3, 1e-3, 1e-3),
    "cam.optimizer.step_every": (4000, 4000, 4000),
    "cam.augment.flip": (True, True, False),
    "saliency.method": ("combined", "combined", "gradient"),
    "seeds.fg_thresh": (0.2, 0.2, 0.2),
    "seeds.bg_thresh": (0.2, 0.2, 0.1),
    "seeds.crf.use": ("none", "none", "none"),
    "crf.train.unary": ("logp", "prob", "logp"),
    "crf.train.iterations": (10, 10, 10),
    "crf.test.bilateral_xy": (80, 80, 80),
    "grow.enabled": (True, True, False),
    "grow.on": ("crf", "crf", "crf"),
    "grow.fg_thresh": (0.85, 0.85, 0.85),
    "grow.bg_thresh": (0.99, 0.99, 0.99),
    "grow.start": (0, 0, 0),
    "dsrg.steps": (8000, 8000, 8000),
    "dsrg.batch": (20, 20, 15),
    "dsrg.seed_loss": ("balanced", "balanced", "plain"),
    "dsrg.boundary_loss": (True, True, True),
    "dsrg.boundary_clip": (None, 20, None),
    "dsrg.crf_gradient": (False, True, False),
    "dsrg.objective": ("dsrg", "dsrg", "sec"),
    "weak.sec.expand_fg": (0.996, 0.996, 0.996),
    "weak.sec.expand_bg": (0.999, 0.999, 0.999),
    "dsrg.optimizer.lr": (5e-4, 5e-4, 1e-3),
    "dsrg.optimizer.step_every": (2000, 1000, 2000),
    "dsrg.optimizer.step_factor": (0.1, 0.33, 0.1),
    "dsrg.augment.flip": (True, True, False),
    "pseudo_labels.tags_only": (True, False, True),
    "pseudo_labels.shape": ("square", "square", "square"),
    "retrain.steps": (20000, 20000, 20000),
    "retrain.batch": (10, 10, 10),
    "retrain.augment.shape": ("square", "native", "square"),
    "evaluate.shape": ("square", "native", "square"),
    "evaluate.scales": ([0.75, 1, 1.25], [0.75, 1, 1.25], [1]),
    "evaluate.merge": ("sum", "sum", "sum"),
}


@pytest.mark.parametrize("source", range(3), ids=SOURCES)
def test_recipes_of_the_tables_have_the_numbers_of_their_sources(source):
    values = load_params(ROOT / f"recipes/voc2012-{SOURCES[source]}.yaml")
    found = {key: reduce(getattr, key.split("."), values) for key in NUMBERS}
    assert found == {key: numbers[source] for key, numbers in NUMBERS.items()}


@pytest.mark.parametrize("written", ["1e-5", "1e-05", "1E-5", "0.00001", "1.0e-5"])
def test_learning_rate_in_any_notation_is_a_number(put, written):
    path = put({"dsrg.optimizer": {"lr": "LR"}})
    path.write_text(path.read_text().replace("lr: LR", f"lr: {written}"))
    assert load_params(path).dsrg.optimizer.lr == 1e-5


def test_byte_order_mark_and_foreign_line_ends_do_no_harm(put):
    path = put()
    expected = load_params(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_params(path) == expected


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("grow.fg_tresh", 0.8, "no such parameter"),
        ("grow.fg_thresh", 1.2, "less than or equal to 1, not 1.2"),
        ("grow.enabled", "perhaps", "boolean"),
        ("dsrg.steps", "many", "integer, not 'many'"),
        ("dsrg.steps", 10.5, "integer"),
        ("dsrg.steps", 0, "greater than or equal to 1"),
        ("optimizer.lr", 0, "greater than 0"),
        ("optimizer.lr", -1e-3, "greater than 0"),
        ("optimizer.lr", float("nan"), "finite number"),
        ("dsrg.batch", 10**6, "less than or equal to 4096"),
        ("optimizer.name", "adam", "'sgd' or 'adamw', not 'adam'"),
        ("network.rates.2", 0, "greater than or equal to 1"),
        ("network.rates", [], "at least 1 item"),
        ("data.size", 320, "8k+1"),
        ("data.size", 325, "8k+1"),
        ("data.size", 1, "greater than or equal to 9"),
        ("seeds.scales", [], "at least 1 item"),
        ("crf.test.min_prob", 0, "greater than 0"),
        ("cam", 3, "dictionary"),
        ("optimizer", 3, "dictionary"),
        ("dsrg.optimizer", 3, "dictionary"),
        ("cam.optimizer.lr", 0, "greater than 0"),
        ("shapes.train", 0, "greater than or equal to 1"),
        ("shapes.objects_max", 6, "less than or equal to 5"),
        ("shapes.hue_spread", 200, "less than or equal to 180"),
        ("dsrg.objective", "ccn", "'dsrg', 'sec', 'mil',"),
        ("weak.mil.sharpness", 5.0, "no such parameter"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**64, "less than"),  # torch cannot take more
    ],
)
def test_a_bad_value_is_named_by_its_dotted_key(put, key, value, said):
    if key == "network.rates.2":
        path = put({"network.rates": [1, 2, value]})
    else:
        path = put({key: value})
    (problem,) = problems(path)
    assert problem.startswith(f"{path}: {key}: ")
    assert said in problem


@pytest.mark.parametrize(
    ("changes", "section", "said"),
    [
        ({"network.head": "largefov"}, "network", "one branch"),
        ({"shapes.size_min": 200, "shapes.size_max": 100}, "shapes", "size_min"),
        ({"shapes.cover_min": 0.9, "shapes.cover_max": 0.1}, "shapes", "cover_min"),
        ({"cam.augment.scale_min": 2.0}, "cam.augment", "scale_min"),
        ({"saliency.method": "maps"}, "saliency", "the folder"),
        ({"seeds.cues": "cues.pickle"}, "seeds", "go together"),
        (
            {"seeds.cues": "c", "seeds.cues_list": "l", "seeds.cues_use": "foreground", "saliency.method": "cam"},
            "seeds.cues_use",
            "needs no classifier",
        ),
        ({"seeds.cues_list": "input_list.txt"}, "seeds", "go together"),
        ({"data.source": "folder", "data.tags": None}, "data", "needs tags"),
        ({"network.weights": "imagenet", "network.input": "caffe"}, "network", "input must be torchvision"),
        ({"weak.ccnn.bg_min": 0.8}, "weak.ccnn", "bg_min must not"),
        ({"weak.em_adapt.fg_bias": 5.0}, "weak.em_adapt", "bg_bias and fg_bias go together"),
        ({"network.backbone": "vgg19"}, "network.backbone", "timm:NAME, not 'vgg19'"),
    ],
)
def test_values_that_contradict_each_other(put, changes, section, said):
    path = put(changes)
    (problem,) = problems(path)
    assert problem.startswith(f"{path}: {section}: ") and said in problem


def test_a_training_may_have_an_optimizer_of_its_own(put):
    params = load_params(put({"retrain.optimizer": {"lr": 0.5}, "cam.optimizer": None}))
    assert params.cam.optimizer == params.dsrg.optimizer == params.optimizer
    assert params.retrain.optimizer == params.optimizer.model_copy(update={"lr": 0.5})
    path = put()
    assert problems(put({"dsrg.optimizer": {"rl": 1}})) == [
        f"{path}: dsrg.optimizer.rl: no such parameter; a typo? Recipes in recipes/ show every key"
    ]


def test_keys_of_older_files_are_named_with_the_new_ones(put):
    whole = {f"{name}.optimizer": {"name": "sgd", "lr": 1} for name in TRAININGS}
    (problem,) = problems(put(whole, without="optimizer"))
    assert "optimizer: missing; what all trainings share stands there now: move dsrg.optimizer there" in problem
    (problem,) = problems(put({"cam.optimiser": {}}))
    assert "cam.optimiser: is called optimizer now" in problem


def test_a_training_may_have_a_network_of_its_own(put):
    changed = {"backbone": "resnet101", "head_layers": 1}
    params = load_params(put({"retrain.network": changed, "retrain.init": "weights"}))
    assert params.network_of("cam") == params.network_of("dsrg") == params.network
    assert params.network_of("retrain") == params.network.model_copy(update=changed)


def test_the_final_network_may_go_on_at_a_finer_stride(put):
    coarse = {"network.output_stride": 16, "network.rates": [1, 2], "retrain.init": "dsrg"}
    finer = {"output_stride": 8, "rates": [2, 4], "dropout": 0.0}
    params = load_params(put(coarse | {"retrain.network": finer}))
    networks = [untrained(params, training, classes=2) for training in ("dsrg", "retrain")]
    networks[1].load_state_dict(networks[0].state_dict())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cam.network": {"backbone": "vgg19"}}, ["cam.network.backbone: ", "timm:NAME, not 'vgg19'"]),
        ({"dsrg.network": {"bakcbone": "vgg16"}}, ["dsrg.network.bakcbone: no such parameter"]),
        ({"retrain.network": {"head": "largefov"}}, ["retrain.network: ", "one branch"]),
        ({"retrain.network": "vgg16"}, ["retrain.network: ", "dictionary"]),
        ({"cam.network": {"backbone": "vgg16"}, "dsrg.init": "cam"}, ["dsrg.init: cam starts", "vgg16"]),
        ({"retrain.network": {"rates": [1]}, "retrain.init": "dsrg"}, ["retrain.init: dsrg", "number of rates"]),
        ({"retrain.network": {"head_channels": 8}, "retrain.init": "dsrg"}, ["retrain.init: dsrg", "head_channels"]),
    ],
)
def test_networks_of_trainings_that_cannot_be(put, changes, said):
    (problem,) = problems(put(changes))
    assert all(part in problem for part in said)


def test_all_problems_come_at_once(put):
    path = put(
        {"grow.fg_thresh": 2, "data.size": 320, "dsrg.extra": 1, "retrain.optimizer": {"lr": "x"}}, without="seeds"
    )
    found = {line.split(": ")[1] for line in problems(path)}
    assert found == {"grow.fg_thresh", "data.size", "dsrg.extra", "retrain.optimizer.lr", "seeds"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"seed: [1, 2", "not valid YAML"),
        (b"seed: 1\nseed: 2\n", "duplicate key"),
        (b"seed: 1\n\tdata: 2\n", "not valid YAML"),
        (b"seed: \xff\xfe", "not UTF-8 text"),
        (b"seed: 2001-99-99\n", "not valid YAML"),
        (b"- seed\n", "found list"),
        (b"", "found NoneType"),
        (b"!!python/object/apply:os.system [exit]", "not valid YAML"),
        *((text, "params.yaml: ") for text in (b"&a [*a]", b"a: " + b"[" * 3000, b"? [a]\n: b", b"\t", b"{")),
    ],
)
def test_files_that_are_no_params(tmp_path, content, said):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    for problem in problems(path):
        assert str(path) in problem and said in problem


def test_missing_file_and_folder(tmp_path):
    assert "recipes/" in problems(tmp_path / "params.yaml")[0]
    assert "a folder or device" in problems(tmp_path)[0]


def test_experiments_of_the_readme_change_something():
    """Of the demo, which they are shown with: an experiment with its own values would run nothing."""
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("dvc exp run -S ")]
    changes = [change for line in lines for change in re.findall(r"-S ([\w.]+)=(\S+)", line)]
    demo = load_params(ROOT / "params.yaml")
    assert len(lines) >= 3
    assert not [f"{key}={value}" for key, value in changes if str(attrgetter(key)(demo)) == value]
