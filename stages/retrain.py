"""Train the final network on the pseudo labels."""

from dsrg.artifacts.label_folder import LabelFolder
from dsrg.artifacts.model_file import Model, load_model, save_model
from dsrg.data.batches import Batches
from dsrg.data.classes import read_classes
from dsrg.data.index import read_index
from dsrg.networks.weights import initial_segmenter
from dsrg.pipeline import Stage, run_stage
from dsrg.training.fit import fit, set_up_torch
from dsrg.training.mask_objective import mask_objective


def retrain(stage: Stage) -> None:
    params, retrain = stage.params, stage.params.retrain
    classes = read_classes(stage.file["classes"])
    index = read_index(stage.file["index"], classes).split("train")
    set_up_torch(params.seed)
    network = params.network.model_dump(exclude={"weights"})
    segmenter = initial_segmenter(classes=len(classes), weights=params.network.weights, **network)
    if retrain.init == "dsrg":
        segmenter.load_state_dict(load_model(stage.file["dsrg"], kind="segmenter", made_by="train_dsrg").weights)
    batches = Batches(
        index,
        root=stage.data_root,
        labels=LabelFolder(stage.file["pseudo_labels"], index.ids, made_by="make_pseudo_labels"),
        size=params.data.size,
        batch=retrain.batch,
        seed=params.seed,
        **retrain.augment.model_dump(),
    )
    segmenter = fit(
        segmenter,
        mask_objective(loss=retrain.loss, min_prob=retrain.min_prob),
        batches,
        name=stage.name,
        steps=retrain.steps,
        precision=retrain.precision,
        optimiser=retrain.optimiser.model_dump(),
        scratch=stage.scratch,
        curves=stage.results / "curves.tsv",
    )
    save_model(stage.file["retrain"], Model("segmenter", classes, network, params.data.size, segmenter.state_dict()))
    stage.finish()


if __name__ == "__main__":
    run_stage(retrain)
