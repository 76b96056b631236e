"""What params name beside the data: a network, its weights, ready maps, cues. `dsrg check` looks at them first.

The stages refuse the same, but some of them only after hours of training.
"""

from collections.abc import Callable

from dsrg.artifacts.cues import read_cues
from dsrg.data.index import Index
from dsrg.errors import InputError
from dsrg.files import find_in_project
from dsrg.inference.seeding import ready_maps
from dsrg.networks.network import grid_size
from dsrg.networks.weights import initial_segmenter
from dsrg.params import Network, Params


def network_problems(network: Network) -> list[str]:
    """Why the network cannot be made, or not be filled from the file of its weights; ImageNet's are not fetched."""
    settings = network.model_dump()
    if network.weights == "imagenet":
        settings["weights"] = None
    return _problems(lambda: initial_segmenter(classes=1, **settings))


def seed_problems(params: Params, index: Index, classes: list[str]) -> list[str]:
    """Why the training images' seeds cannot come from ready cues or maps, where they are to."""
    train, seeds = index.split("train"), params.seeds
    if seeds.cues is not None:
        files, grid = [find_in_project(path) for path in (seeds.cues, seeds.cues_list)], grid_size(params.data.size)
        if missing := [f"{path}: no such file; see params seeds.cues" for path in files if not path.is_file()]:
            return missing
        return _problems(lambda: read_cues(*files, train, grid=grid, classes=classes, conflict="highest"))
    if params.saliency.method == "maps":
        return _problems(lambda: ready_maps(params.saliency, train.ids))
    return []


def _problems(make: Callable[[], object]) -> list[str]:
    try:
        make()
    except InputError as error:
        return error.problems
    return []
