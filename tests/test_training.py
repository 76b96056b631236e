"""Training: rates and schedules of the paper, a loop that can be killed, supervision that grows."""

import _thread
import errno
import io
import math
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dsrg.artifacts.growth import read_growth
from dsrg.data.batches import Batch, Batches
from dsrg.data.images import read_image, read_mask
from dsrg.errors import InputError, RunError
from dsrg.figures.growth import write_growth
from dsrg.figures.overlays import overlay, panels
from dsrg.inference.preprocess import warp_to_square
from dsrg.method.crf import clamped, dense_crf, unary_energies
from dsrg.method.grid import UNLABELED
from dsrg.method.growing import grow
from dsrg.method.losses import boundary_loss, seeding_loss, smoothed_softmax
from dsrg.networks.network import CamClassifier, DeepLab
from dsrg.params import Cam, Dsrg, Grow, Optimizer, Retrain, TrainCrf, Training
from dsrg.runtime.checksummed import write_checksummed
from dsrg.runtime.signals import Stopped, stoppable
from dsrg.training import checkpoints as resume_module
from dsrg.training import dsrg as supervision_module
from dsrg.training.cam import cam_criterion
from dsrg.training.checkpoints import Checkpoints
from dsrg.training.curves import NotFiniteError
from dsrg.training.dsrg import Supervisor, class_shares, dsrg_criterion
from dsrg.training.fit import Criterion, fit, let_stops_through, set_up_torch
from dsrg.training.growth_recorder import GrowthRecorder, watched_steps
from dsrg.training.optim import lr_factor, parameter_groups
from dsrg.training.retrain import retrain_criterion
from helpers import small_training
from helpers.crf import PAPER_IN_TRAINING
from helpers.data import harm, picture, save_index
from helpers.project import recipe
from helpers.small_training import images

NEW = {"input": "torchvision", "init_std": 0.01, "dropout": 0.5}
HEAD = {"head": "aspp", "head_channels": 8, "head_layers": 2, "rates": [1, 2], **NEW}
SGD = small_training.SGD | {"lr": 0.01, "head_lr": 10.0}
ADAMW = SGD | {"name": "adamw", "lr": 0.003, "head_lr": 1.0, "schedule": "constant"}


@pytest.fixture(autouse=True)
def settings_put_back():
    """Torch's."""
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
    torch.utils.deterministic.fill_uninitialized_memory = filling


def small_segmenter() -> DeepLab:
    torch.manual_seed(0)
    return DeepLab(classes=2, backbone="vgg_mini", output_stride=8, **HEAD)


def cam_params(scale: float, offset: float) -> Cam:
    return Cam(**recipe()["cam"] | {"score_scale": scale, "score_offset": offset})


tags = cam_criterion(cam_params(1.0, 0.0))


def retrain_params(loss: str, min_prob: float = 1e-4) -> Retrain:
    return Retrain(**recipe()["retrain"] | {"loss": loss, "min_prob": min_prob})


def rate_factor(step: int, *, steps: int = 8000, **schedule) -> float:
    return lr_factor(step, steps=steps, settings=Optimizer(**SGD | schedule))


def watch_params() -> Dsrg:
    return Dsrg(**recipe()["dsrg"] | {"batch": 1, "min_prob": 1e-4, "steps": 6, "watch_times": 2})


class TestRates:
    RATES = Optimizer(**SGD | {"lr": 5e-4})

    def test_released_multipliers(self):
        """1x and 2x for the backbone's weights and biases, 10x and 20x for the head's; biases do not decay."""
        with torch.device("meta"):
            network = DeepLab(classes=2, backbone="vgg16", output_stride=8, **HEAD)
        groups = parameter_groups(network, self.RATES)
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        rates = {}
        for group in groups:
            assert group["peak_lr"] == group["lr"]
            for parameter in group["params"]:
                rates[names[id(parameter)]] = group["lr"] / 5e-4, group["weight_decay"]
        assert rates["backbone.0.weight"] == (1, 5e-4) and rates["backbone.28.bias"] == (2, 0)
        assert rates["head.branches.0.0.weight"] == (10, 5e-4) and rates["head.branches.1.3.bias"] == (20, 0)
        assert set(rates.values()) == {(1, 5e-4), (2, 0), (10, 5e-4), (20, 0)}

    @pytest.mark.parametrize("frozen", [False, True])
    @pytest.mark.parametrize("name", ["vgg_mini", "mobilenet_v2"])
    def test_every_trainable_parameter_is_in_exactly_one_group(self, name, frozen):
        with torch.device("meta"):
            segmenter = DeepLab(classes=2, backbone=name, output_stride=8, **HEAD)
            classifier = CamClassifier(classes=2, backbone=name, output_stride=8, **NEW)
        for network in (segmenter, classifier):
            if frozen:
                next(network.parameters()).requires_grad_(False)
            groups = parameter_groups(network, self.RATES)
            grouped = [id(p) for group in groups for p in group["params"]]
            assert sorted(grouped) == sorted(id(p) for p in network.parameters() if p.requires_grad)
            for group in groups:
                assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}


class TestSchedule:
    OPTIONS = {"warmup": 0, "step_every": 2000, "step_factor": 0.1, "poly_power": 0.9}

    @pytest.mark.parametrize(
        ("changes", "factors"),
        [
            # the paper's; a port of the method divides at iteration 0 as well
            ({"schedule": "step"}, {0: 1, 1999: 1, 2000: 0.1, 3000: 0.1, 4000: 0.01, 7000: 1e-3}),
            # the released solver's
            ({"schedule": "step", "step_every": 1000, "step_factor": 0.33}, {0: 1, 1000: 0.33, 7000: 0.33**7}),
            ({"schedule": "poly"}, {0: 1, 4000: 0.5**0.9, 7999: 8000**-0.9}),
            ({"schedule": "constant"}, {0: 1, 4000: 1, 7999: 1}),
        ],
    )
    def test_schedules_by_hand(self, changes, factors):
        options = self.OPTIONS | changes
        assert {step: rate_factor(step, **options) for step in factors} == pytest.approx(factors)

    @pytest.mark.parametrize("schedule", ["step", "poly", "constant"])
    def test_warm_up_rises_in_a_line_and_then_leaves_the_schedule_alone(self, schedule):
        plain = self.OPTIONS | {"schedule": schedule}
        warm = plain | {"warmup": 4}
        shares = [rate_factor(step, **warm) / rate_factor(step, **plain) for step in range(7)]
        assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1])


class Failing(Exception):
    pass


def fail_at(stop: int, seen: list[int] | None = None) -> Callable[[nn.Module, int], None]:
    """What a training is watched by that dies at a step."""

    def watch(network, step):
        if seen is not None:
            seen.append(step)
        if step == stop:
            raise Failing

    return watch


def assert_same_weights(network: nn.Module, other: nn.Module) -> None:
    for (name, value), theirs in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, theirs), name


def changed(change: Callable[[torch.Tensor, Batch, int], torch.Tensor]) -> Criterion:
    """The tags' objective with another loss: change(loss, batch, step)."""

    def objective(network, batch: Batch, step: int):
        loss, values = tags(network, batch, step)
        loss = change(loss, batch, step)
        return loss, values | {"loss": loss.detach()}

    return objective


def bad_at(*steps: int) -> Criterion:
    return changed(lambda loss, batch, step: loss * math.nan if step in steps else loss)


class TestFit:
    """A toy problem: red pictures and green ones, told apart by a small classifier."""

    @pytest.fixture
    def train(self, tmp_path):
        """Train a classifier with dropout in a folder of its own -> the network."""
        (tmp_path / "data").mkdir()
        index, _ = images(tmp_path / "data")

        def train(name: str, *, steps=40, precision="fp32", optimizer=ADAMW, objective=tags, skip=0, **options):
            set_up_torch(3)
            network = CamClassifier(classes=2, backbone="vgg_mini", output_stride=8, **NEW | {"dropout": 0.0})
            network.backbone.append(nn.Dropout(0.2))  # random numbers must go on where they were too
            augment = {"shape": "square", "flip": True, "scale_min": 0.8, "scale_max": 1.2, "color": 0.1}
            values = {"network": None, "steps": steps, "batch": 4, "precision": precision, "skip_bad_steps": skip}
            settings = Training(**values, optimizer=optimizer, augment=augment)
            batches = Batches(index, labels=None, size=33, batch=4, seed=1, augment=settings.augment)
            folder = tmp_path / name
            places = {"scratch": folder / "scratch", "curves": folder / "curves.tsv"}
            return fit(network, objective, batches, settings, name=name, fingerprint="red-green", **places, **options)

        return train

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    @pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
    def test_loss_falls_and_curves_are_written(self, train, tmp_path, precision, optimizer):
        network = train("run", precision=precision, optimizer=optimizer)
        assert isinstance(network, CamClassifier) and not network.training
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        header, *lines = (line.split("\t") for line in (tmp_path / "run/curves.tsv").read_text().splitlines())
        assert header == ["step", "loss", "gradient", "lr"] and [line[0] for line in lines] == ["10", "20", "30", "40"]
        losses = [float(line[1]) for line in lines]
        assert losses[-1] < 0.5 * losses[0] and losses[0] > 0.3
        rates = [optimizer["lr"] * rate_factor(step, steps=40, **optimizer) for step in (9, 19, 29, 39)]
        assert [float(line[3]) for line in lines] == pytest.approx(rates, rel=1e-5)
        assert not list((tmp_path / "run/scratch").glob("*.pt"))  # too short for one

    @pytest.mark.parametrize(("precision", "optimizer"), [("fp32", SGD), ("bf16", ADAMW)], ids=["fp32", "bf16"])
    def test_killed_and_gone_on_is_the_same_to_the_bit(self, train, tmp_path, monkeypatch, precision, optimizer):
        options, killed_at = {"precision": precision, "optimizer": optimizer}, [13, 31, 39]
        whole = train("run", **options)
        expected = (tmp_path / "run/curves.tsv").read_text()
        (tmp_path / "run").rename(tmp_path / "before")

        monkeypatch.setenv("DSRG_CHECKPOINT_STEPS", "7")  # between two points of the curves
        seen = []
        for stop in killed_at:
            with pytest.raises(Failing):
                train("run", on_step_end=fail_at(stop, seen), **options)
        resumed = train("run", on_step_end=fail_at(0, seen), **options)
        starts, last = [1], 0
        for stop in killed_at:
            last += (stop - 1 - last) // 7 * 7  # a step counts when all of it is done, this test's own part too
            starts.append(last + 1)
        ends = [*killed_at, 40]
        assert seen == [step for first, last in zip(starts, ends, strict=True) for step in range(first, last + 1)]
        assert_same_weights(whole, resumed)
        assert (tmp_path / "run/curves.tsv").read_text() == expected

    def test_a_full_disk_stops_it_and_with_room_it_ends_with_the_same_bits(self, train, tmp_path, monkeypatch):
        whole = train("whole", steps=20)
        monkeypatch.setenv("DSRG_CHECKPOINT_STEPS", "7")
        write = Path.write_bytes

        def full(path, content):
            if "step-00000014" in path.name:
                write(path, content[:100])
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(path, content)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            with pytest.raises(InputError, match=r"step-00000014.*: No space left on device \(.* free\); make room"):
                train("run", steps=20)
        assert [path.name.split(".")[0] for path in (tmp_path / "run/scratch").glob("*.pt")] == ["step-00000007"]
        assert list((tmp_path / "run/scratch").glob(".*")) == []
        resumed = train("run", steps=20)
        assert_same_weights(whole, resumed)

    def test_values_a_class_get_a_table_that_survives_too(self, train, tmp_path, monkeypatch):
        def objective(network, batch: Batch, step: int):
            loss, values = tags(network, batch, step)
            return loss, values | {"number": torch.tensor(float(step)), "share": torch.tensor([step, 0.25, 1 / 3])}

        def watch(network, step):
            lines = (tmp_path / "run/scratch/per_class.tsv").read_text().splitlines()
            assert len(lines) == (1 + (step - 1) // 10 * 3 if step > 10 else 0), "later ones are forgotten"
            assert not (tmp_path / "run/per_class.tsv").exists(), "in its place only when it is whole"
            if step == 21 and not failed:
                failed.append(step)
                raise Failing

        failed = []
        monkeypatch.setenv("DSRG_CHECKPOINT_STEPS", "7")
        options = {"objective": objective, "classes": ["background", "red", "green"], "steps": 28, "on_step_end": watch}
        with pytest.raises(Failing):
            train("run", **options)
        train("run", **options)
        header, *lines = (line.split("\t") for line in (tmp_path / "run/per_class.tsv").read_text().splitlines())
        assert header == ["step", "class", "share"]
        latest = Checkpoints(tmp_path / "run/scratch", fingerprint="red-green").load()
        assert latest["step"] == 21, "none at the end, where nothing is left to do"
        means = {"10": "4.5", "20": "14.5", "28": "23.5"}  # of the steps since the last point
        expected = [
            [[step, "background", mean], [step, "red", "0.25"], [step, "green", "0.333333"]]
            for step, mean in means.items()
        ]
        assert lines == sum(expected, [])
        header, *lines = (line.split("\t") for line in (tmp_path / "run/curves.tsv").read_text().splitlines())
        assert header == ["step", "loss", "number", "gradient", "lr"]
        assert [(line[0], line[2]) for line in lines] == list(means.items())

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_loss_that_is_no_number_stops_with_step_and_images(self, train, tmp_path, monkeypatch, bad):
        seen = {}

        def spoil(loss, batch: Batch, step: int):
            seen[step] = batch.ids
            return loss * bad if step >= 23 else loss

        monkeypatch.setenv("DSRG_CHECKPOINT_STEPS", "3")
        with pytest.raises(NotFiniteError) as error:
            train("run", objective=changed(spoil))
        assert f"loss is {bad} at step 24 with the images {', '.join(seen[23])}. A lower" in str(error.value)
        (note,) = error.value.__notes__
        assert note.startswith("last good checkpoint: of step 21, ") and str(tmp_path / "run/scratch") in note
        assert Checkpoints(tmp_path / "run/scratch", fingerprint="red-green").load()["step"] == 21  # and not 24

    @pytest.mark.parametrize("where", ["logits", "gradient"])
    def test_so_do_logits_and_gradients(self, train, where):
        def divided(network, batch: Batch, step: int):
            return tags(lambda images: network(images) / (step != 3), batch, step)

        # finite; the square root's derivative at 0 is not
        rooted = changed(lambda loss, batch, step: loss + (loss - loss.detach()).sqrt() if step == 3 else loss)
        objective = {"logits": divided, "gradient": rooted}[where]
        name = {"logits": "loss", "gradient": "gradient"}[where]
        with pytest.raises(NotFiniteError, match=f"{name} is (nan|inf) at step 4 ") as error:
            train("run", objective=objective)
        assert error.value.__notes__ == ["last good checkpoint: none"]

    def test_bad_steps_can_be_left_out_up_to_a_limit(self, train, tmp_path, monkeypatch, capsys):
        """... and the training is that of the other steps alone, killed or not."""

        with pytest.raises(NotFiniteError, match="loss is nan at step 30 "):
            train("run", objective=bad_at(4, 5, 29), skip=2)
        said = capsys.readouterr().out
        assert "run: step left out, 2 of at most 2: loss is nan at step 6 with the images im" in said
        some = {"objective": bad_at(4, *range(10, 20)), "skip": 11}
        whole = train("whole", **some)
        steps = [line.split("\t")[0] for line in (tmp_path / "whole/curves.tsv").read_text().splitlines()]
        assert steps == ["step", "10", "30", "40"]

        monkeypatch.setenv("DSRG_CHECKPOINT_STEPS", "6")
        with pytest.raises(Failing):
            train("killed", on_step_end=fail_at(16), **some)
        resumed = train("killed", **some)
        assert_same_weights(whole, resumed)
        assert (tmp_path / "whole/curves.tsv").read_text() == (tmp_path / "killed/curves.tsv").read_text()

    @pytest.mark.parametrize("moment", ["forward", "backward", "after the step"])
    def test_told_to_stop_it_keeps_the_last_whole_step(self, train, tmp_path, moment):
        """Wherever it is, even within a long backward pass, and goes on to the same weights."""
        whole, told = train("whole", steps=20), []

        def stop(loss, batch: Batch, step: int):
            if step == 12 and not told and moment != "after the step":
                told.append(step)
                if moment == "forward":
                    signal.raise_signal(signal.SIGTERM)
                loss.register_hook(lambda gradient: os.kill(os.getpid(), signal.SIGTERM))
            return loss

        def watch(network, step):
            if step == 13 and not told:
                told.append(step)
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(Stopped), stoppable():
            train("run", steps=20, objective=changed(stop), on_step_end=watch)
        done = 13 if moment == "after the step" else 12
        assert Checkpoints(tmp_path / "run/scratch", fingerprint="red-green").load()["step"] == done
        resumed = train("run", steps=20)
        assert_same_weights(whole, resumed)
        assert (tmp_path / "whole/curves.tsv").read_text() == (tmp_path / "run/curves.tsv").read_text()

    def test_told_to_stop_after_a_bad_step_it_keeps_nothing_of_it(self, train, tmp_path):
        def watch(network, step):
            if step == 5:
                signal.raise_signal(signal.SIGTERM)

        with pytest.raises(NotFiniteError, match="at step 3"), stoppable():
            train("run", objective=bad_at(2), on_step_end=watch)
        assert Checkpoints(tmp_path / "run/scratch", fingerprint="red-green").load() is None

    def test_a_stop_gets_through_in_a_long_backward_pass(self, train, tmp_path):
        """Between two parameters' gradients, not only after all of them."""
        networks = []

        def objective(network, batch: Batch, step: int):
            networks.append(network)
            loss, values = tags(network, batch, step)
            # it comes where no line of Python runs that would notice
            list(network.parameters())[-1].register_hook(partial(next, map(_thread.interrupt_main, [signal.SIGTERM])))
            return loss, values

        with pytest.raises(Stopped), stoppable():
            train("run", objective=objective)
        assert next(networks[0].parameters()).grad is None  # the last one that backward comes to

    def test_out_of_memory_names_the_batch_and_what_to_lower(self, train):
        def objective(network, batch: Batch, step: int):
            if step == 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
            return tags(network, batch, step)

        with pytest.raises(RunError, match="out of memory with 4 images at once; lower `batch`.*data.size") as error:
            train("run", objective=objective)
        assert "(CUDA out of memory)" in str(error.value)


def test_torch_is_deterministic_and_does_not_fill_new_memory():
    set_up_torch(5)
    drawn = torch.rand(3)
    set_up_torch(5)
    assert torch.equal(torch.rand(3), drawn) and torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


class TestCheckpoints:
    @pytest.fixture
    def folder(self, tmp_path):
        return tmp_path / "scratch"

    def save(self, folder, *steps: int) -> Checkpoints:
        checkpoints = Checkpoints(folder, fingerprint="0123")
        for step in steps:
            checkpoints.save({"step": step, "network": {"w": torch.full((2,), float(step))}})
        return checkpoints

    def test_the_newest_comes_back_and_two_are_kept(self, folder):
        assert Checkpoints(folder, fingerprint="0123").load() is None
        kept = self.save(folder, 10, 20, 30).kept
        assert [path.name.split(".")[0] for path in sorted(folder.iterdir())] == ["step-00000020", "step-00000030"]
        assert kept == sorted(folder.iterdir())
        state = Checkpoints(folder, fingerprint="0123").load()
        assert state["step"] == 30 and torch.equal(state["network"]["w"], torch.full((2,), 30.0))

    @pytest.mark.parametrize("how", ["bit", "cut", "empty", "gone"])
    def test_a_damaged_one_falls_back_to_the_one_before_with_a_warning(self, folder, how, capsys):
        path = self.save(folder, 10, 20).kept[-1]
        if how == "gone":
            path.unlink()
            path.symlink_to("nowhere")
        else:
            harm(path, how)
        checkpoints = Checkpoints(folder, fingerprint="0123")
        assert checkpoints.load()["step"] == 10
        said = capsys.readouterr().out
        assert said.startswith(f"warning: {path}: ") and "going on from the checkpoint before it" in said
        checkpoints.save({"step": 20})  # the damaged one is no hindrance
        assert Checkpoints(folder, fingerprint="0123").load()["step"] == 20

    def test_one_of_another_training_is_not_taken(self, folder, capsys):
        self.save(folder, 10)
        assert Checkpoints(folder, fingerprint="4567").load() is None
        assert "belongs to 0123, not to 4567: other params, inputs or code" in capsys.readouterr().out

    def test_nothing_in_it_is_executed(self, folder, capsys):
        class Evil:
            def __reduce__(self):
                return print, ("executed",)

        folder.mkdir()
        buffer = io.BytesIO()
        torch.save({"step": 1, "fingerprint": "0123", "evil": Evil()}, buffer)
        write_checksummed(folder, "step-00000001", buffer.getvalue(), suffix=".pt")
        assert Checkpoints(folder, fingerprint="0123").load() is None
        said = capsys.readouterr().out
        assert (
            "step-00000001" in said and "no checkpoint (Weights only load failed" in said and "\nexecuted" not in said
        )

    @pytest.mark.parametrize("content", [b"", b"no archive", b"\x80\x02K\x07.", None], ids=str)
    def test_whole_files_of_other_content_are_not_gone_on_from(self, folder, content, capsys):
        """None: an archive that lacks what a checkpoint has."""
        self.save(folder, 10)
        if content is None:
            buffer = io.BytesIO()
            torch.save({"step": 20}, buffer)
            content = buffer.getvalue()
        write_checksummed(folder, "step-00000020", content, suffix=".pt")
        assert Checkpoints(folder, fingerprint="0123").load()["step"] == 10
        assert "no checkpoint (" in capsys.readouterr().out

    def test_killed_while_saving_the_older_one_is_left(self, folder, monkeypatch):
        def fail(*arguments):
            raise Failing

        self.save(folder, 10)
        for moment in ("fsync", "replace"):
            with monkeypatch.context() as patch, pytest.raises(Failing):
                patch.setattr(f"os.{moment}", fail)
                self.save(folder, 20)
            assert Checkpoints(folder, fingerprint="0123").load()["step"] == 10
        assert len(list(folder.iterdir())) == 1

    @pytest.mark.parametrize(("every", "expected"), [("", [26, 52]), ("10", [10, 20, 30, 40, 50, 60])])
    def test_one_is_due_after_so_many_seconds_or_steps(self, folder, monkeypatch, every, expected):
        saved, now = [], [1000.0]
        monkeypatch.setattr(resume_module.time, "monotonic", lambda: now[0])
        monkeypatch.setenv("DSRG_CHECKPOINT_SECONDS", "25")
        monkeypatch.setenv("DSRG_CHECKPOINT_STEPS", every)
        checkpoints = Checkpoints(folder, fingerprint="0123")
        for step in range(1, 61):  # of a second each
            now[0] += 1
            if checkpoints.due(step):
                checkpoints.save({"step": step})
                saved.append(step)
        assert saved == expected

    def test_a_slow_disk_is_written_to_less_often(self, folder, monkeypatch):
        """Saving takes a fortieth of the time at most."""
        monkeypatch.delenv("DSRG_CHECKPOINT_SECONDS")
        now = [0.0]
        monkeypatch.setattr(resume_module.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(
            resume_module, "write_checksummed", lambda *_, **__: now.__setitem__(0, now[0] + 5) or folder
        )
        checkpoints = Checkpoints(folder, fingerprint="0123")
        now[0] = 61
        assert checkpoints.due(1)
        checkpoints.save({"step": 1})
        now[0] += 199
        assert not checkpoints.due(2)
        now[0] += 2
        assert checkpoints.due(2)


def example(seed: int, *, grid: int = 5, images: int = 2) -> tuple[torch.Tensor, ...]:
    """Images, probabilities, seeds of the tagged classes, and tags."""
    generator = torch.Generator().manual_seed(seed)
    side = 8 * (grid - 1) + 1
    pictures = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8, generator=generator)
    probs = (4 * torch.randn(images, 3, grid, grid, generator=generator)).softmax(dim=1)
    present = torch.rand(images, 3, generator=generator) < 0.7
    present[:, 0] = True
    seeds = torch.randint(0, 12, (images, grid, grid), generator=generator)
    allowed = present.gather(1, seeds.clamp(max=2).flatten(1)).view_as(seeds)
    return pictures, probs, torch.where((seeds < 3) & allowed, seeds, UNLABELED).to(torch.uint8), present


class TestSupervisor:
    CRF = TrainCrf(**PAPER_IN_TRAINING, iterations=10, min_prob=1e-4, unary="logp")
    KERNEL = CRF.kernel
    GROW = Grow(**{"enabled": True, "on": "crf", "fg_thresh": 0.6, "bg_thresh": 0.7, "start": 0})

    @pytest.fixture
    def calls(self, monkeypatch):
        """The CRF's calls."""
        calls, whole = [], supervision_module.dense_crf_over_workers

        def counted(*arguments, **options):
            calls.append(arguments)
            return whole(*arguments, **options)

        monkeypatch.setattr(supervision_module, "dense_crf_over_workers", counted)
        return calls

    def supervise(self, inputs, *, step=0, boundary=True, crf=(), **changes):
        supervisor = Supervisor(
            crf=self.CRF.model_copy(update=dict(crf)), grow=self.GROW.model_copy(update=changes), boundary_loss=boundary
        )
        return supervisor(*inputs, step=step)

    @pytest.mark.parametrize("unary", ["logp", "prob"])
    def test_growth_goes_by_the_crf_on_every_eighth_pixel_or_by_the_network_or_by_both(self, calls, unary):
        inputs = images, probs, seeds, present = example(0)
        energies = unary_energies(probs, unary=unary, min_prob=1e-4)
        refined = clamped(dense_crf(images[:, :, ::8, ::8], energies, **self.KERNEL), min_prob=1e-4)
        both = torch.zeros_like(probs)  # the CRF's class with the network's confidence, pixel by pixel
        for image, row, column in np.ndindex(len(probs), *probs.shape[2:]):
            tags = present[image].nonzero()[:, 0]
            winner = tags[refined[image, tags, row, column].argmax()]
            own = probs[image, tags, row, column]
            both[image, winner, row, column] = probs[image, winner, row, column] / own.sum()
        grown = [seeds]
        for on, deciding in {"crf": refined, "softmax": probs, "both": both}.items():
            found = self.supervise(inputs, on=on, crf={"unary": unary})
            torch.testing.assert_close(found.crf_probs, refined)
            assert torch.equal(found.labels, grow(seeds, deciding, present, fg_thresh=0.6, bg_thresh=0.7)), on
            assert not any(torch.equal(found.labels, other) for other in grown)
            grown.append(found.labels)
        assert len(calls) == 3, "once for loss and growth"

    @pytest.mark.parametrize("boundary", [False, True])
    @pytest.mark.parametrize("on", ["crf", "softmax", "both"])
    @pytest.mark.parametrize("enabled", [False, True])
    @pytest.mark.parametrize("step", [4, 5])
    def test_crf_runs_only_where_something_needs_it(self, calls, boundary, on, enabled, step):
        inputs = example(2)
        found = self.supervise(inputs, step=step, boundary=boundary, on=on, enabled=enabled, start=5)
        grows = enabled and step >= 5
        assert len(calls) == (boundary or (grows and on != "softmax"))
        assert (found.crf_probs is not None) == bool(calls)
        assert torch.equal(found.labels, inputs[2]) != grows

    def test_no_gradient_passes(self):
        images, probs, seeds, present = example(3)
        found = self.supervise((images, probs.requires_grad_(), seeds, present))
        assert not found.crf_probs.requires_grad and not found.labels.requires_grad

    def test_shares_of_the_most_classes_there_can_be(self):
        labels = torch.arange(256).view(1, 16, 16).to(torch.uint8)
        assert class_shares(labels, classes=254).tolist() == [1 / 256] * 255


class TestObjectives:
    @pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (10.0, -1.5)])
    def test_tags_by_hand(self, scale, offset):
        """Sigmoid cross-entropy, mean over classes and images; background is no tag."""
        scores = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
        present = torch.tensor([[True, True, False], [True, False, True]])
        batch = Batch(torch.zeros(0), None, present, ["a", "b"])
        loss, values = cam_criterion(cam_params(scale, offset))(lambda images: scores, batch, 0)
        signed = [scale * score + offset for score in (1.0, -2.0, 0.5, 3.0)] * np.array([1, -1, -1, 1])
        expected = np.mean(np.log1p(np.exp(-signed)))
        assert float(loss) == pytest.approx(expected) and float(values["loss"]) == pytest.approx(expected)

    def test_masks_by_hand_and_255_is_ignored(self):
        logits = torch.tensor([[[[2.0, 0.0]], [[1.0, 5.0]]]])
        labels = torch.tensor([[[0, 255]]], dtype=torch.uint8)
        batch = Batch(torch.zeros(0), labels, torch.zeros(0), ["a"])
        plain = retrain_criterion(retrain_params("cross_entropy"))
        assert float(plain(lambda images: logits, batch, 0)[0]) == pytest.approx(np.log(1 + np.exp(-1)))
        nothing = Batch(torch.zeros(0), torch.full_like(labels, 255), torch.zeros(0), ["a"])
        assert float(plain(lambda images: logits, nothing, 0)[0]) == 0

    def test_balanced_masks_weigh_foreground_as_much_as_background(self):
        logits = torch.zeros(1, 2, 1, 4)
        logits[0, 1, 0] = torch.tensor([-1.0, -1.0, -1.0, 1.0])
        labels = torch.tensor([[[0, 0, 0, 1]]], dtype=torch.uint8)
        batch = Batch(torch.zeros(0), labels, torch.zeros(0), ["a"])
        balanced = retrain_criterion(retrain_params("balanced", 1e-8))(lambda images: logits, batch, 0)[0]
        assert float(balanced) == pytest.approx(2 * np.log(1 + np.exp(-1)), rel=1e-5)

    @staticmethod
    def dsrg_params(**changes) -> Dsrg:
        return Dsrg(**(recipe()["dsrg"] | {"min_prob": 1e-4} | changes))

    @pytest.mark.parametrize("step", [2, 3])
    @pytest.mark.parametrize("seed_loss", ["plain", "balanced"])
    @pytest.mark.parametrize(
        "boundary",
        [None, {"ratio_clip": None, "crf_gradient": False}, {"ratio_clip": 20.0, "crf_gradient": True}],
        ids=["none", "paper", "released"],
    )
    def test_seeds_are_the_losses_of_the_paper_or_of_the_released_code(self, boundary, seed_loss, step):
        """Before growth starts and after."""
        images, _, seeds, present = example(4)
        logits = (5 * torch.randn(2, 3, 5, 5)).requires_grad_()
        growing = TestSupervisor.GROW.model_copy(update={"start": 3})
        supervisor = Supervisor(crf=TestSupervisor.CRF, grow=growing, boundary_loss=boundary is not None)
        released = {key.replace("ratio_clip", "boundary_clip"): value for key, value in (boundary or {}).items()}
        params = self.dsrg_params(boundary_loss=boundary is not None, seed_loss=seed_loss, **released)
        objective = dsrg_criterion(params, supervisor=supervisor)
        loss, values = objective(lambda images: logits, Batch(images, seeds, present, ["a", "b"]), step)
        probs = smoothed_softmax(logits, min_prob=1e-4)
        supervision = supervisor(images, probs, seeds, present, step=step)
        assert torch.equal(supervision.labels, seeds) == (step == 2)
        parts = {"seeding_loss": seeding_loss(probs, supervision.labels, balanced=seed_loss == "balanced")}
        if boundary:
            parts["boundary_loss"] = boundary_loss(probs, supervision.crf_probs, **boundary)
        for name, part in (parts | {"loss": sum(parts.values())}).items():
            assert part > 0
            torch.testing.assert_close(values[name], part.detach())
        assert ("boundary_loss" in values) == (boundary is not None)
        (found,) = torch.autograd.grad(loss, logits)
        (wanted,) = torch.autograd.grad(sum(parts.values()), logits)
        torch.testing.assert_close(found, wanted)

    def test_how_much_is_labeled_and_agreed_upon_by_literal_loops(self):
        images, _, seeds, present = example(4)
        logits = 10 * torch.randn(2, 3, 5, 5)
        supervisor = Supervisor(crf=TestSupervisor.CRF, grow=TestSupervisor.GROW, boundary_loss=False)
        objective = dsrg_criterion(self.dsrg_params(boundary_loss=False), supervisor=supervisor)
        _, values = objective(lambda images: logits, Batch(images, seeds, present, ["a", "b"]), 0)
        grown = supervisor(images, smoothed_softmax(logits, min_prob=1e-4), seeds, present, step=0).labels
        expected = {name: np.zeros(3) for name in ("seeds", "agreed", "grown")}
        predicted = dict.fromkeys(("background", "tagged", "absent"), 0.0)
        for image in range(2):
            for y in range(5):
                for x in range(5):
                    seed, label = int(seeds[image, y, x]), int(grown[image, y, x])
                    winner = int(logits[image, :, y, x].argmax())
                    kind = "absent" if not present[image, winner] else "tagged" if winner else "background"
                    predicted[kind] += 1 / 50
                    if seed != UNLABELED:
                        expected["seeds"][seed] += 1 / 50
                        if winner == seed:
                            expected["agreed"][seed] += 1 / 50
                    if label != UNLABELED:
                        expected["grown"][label] += 1 / 50
        for name, shares in expected.items():
            np.testing.assert_allclose(values[name], shares, rtol=1e-6)
        assert {name: float(values[f"predicted_{name}"]) for name in predicted} == pytest.approx(predicted, abs=1e-6)
        total = {name: shares.sum() for name, shares in expected.items()}
        assert 0 < total["agreed"] < total["seeds"] < total["grown"]
        assert values["agreement"] == pytest.approx(total["agreed"] / total["seeds"])
        assert values["foreground"] == pytest.approx(expected["grown"][1:].sum())
        assert values["background"] == pytest.approx(expected["grown"][0])
        assert values["seed_foreground"] == pytest.approx(expected["seeds"][1:].sum())
        assert values["seed_background"] == pytest.approx(expected["seeds"][0])

    LABELS = {"no seeds": [255], "background alone": [0], "no background": [1, 2], "a class without seeds": [0, 2, 255]}

    @pytest.mark.parametrize("labels", LABELS)
    @pytest.mark.parametrize("tags", [[False, False], [True, True]], ids=["untagged", "all classes"])
    def test_loss_and_gradient_are_finite_whatever_is_labeled(self, labels, tags):
        images, _, _, _ = example(6)
        generator = torch.Generator().manual_seed(0)
        kinds = torch.tensor(self.LABELS[labels], dtype=torch.uint8)
        drawn = kinds[torch.randint(0, len(kinds), (2, 5, 5), generator=generator)]
        batch = Batch(images, drawn, torch.tensor([[True, *tags]] * 2), ["a", "b"])
        supervisor = Supervisor(crf=TestSupervisor.CRF, grow=TestSupervisor.GROW, boundary_loss=True)
        objectives = [cam_criterion(cam_params(10.0, -1.0))]
        objectives += [retrain_criterion(retrain_params(loss)) for loss in ("cross_entropy", "balanced")]
        for seed_loss in ("plain", "balanced"):
            params = self.dsrg_params(seed_loss=seed_loss, boundary_clip=20.0)
            objectives.append(dsrg_criterion(params, supervisor=supervisor))
        for number, objective in enumerate(objectives):
            for scale in (0.0, 1.0, 1e3):
                shape = (2, 3, 5, 5) if number else (2, 2)
                logits = (scale * torch.randn(shape, generator=generator)).requires_grad_()
                loss, values = objective(lambda images, logits=logits: logits, batch, 0)
                loss.backward()
                assert loss.isfinite() and loss >= 0 and logits.grad.isfinite().all()
                assert all(value.isfinite().all() for value in values.values())
                if labels == "no seeds" and "agreement" in values:
                    assert values["agreement"] == 1, "a batch without seeds contradicts none"


class TestGrowthWatch:
    def test_moments(self):
        assert watched_steps(300, 3) == [100, 200, 300] and watched_steps(2, 5) == [1, 2] and watched_steps(7, 1) == [7]

    def test_writes_what_the_supervisor_makes_of_the_whole_images_and_disturbs_nothing(self, tmp_path):
        pictures = {"im0": picture(40, 60, seed=0), "deep im": picture(50, 30, seed=1)}
        root = tmp_path / "data"
        root.mkdir()
        index = save_index(root, pictures, [[1, 1], [1, 1]])
        seeds = np.full((2, 5, 5), 255, np.uint8)
        seeds[:, 0, 0], seeds[:, 0, 4], seeds[:, 4, 4] = 1, 2, 0
        network = small_segmenter().train()
        eager = TestSupervisor.GROW.model_copy(update={"fg_thresh": 0.0, "bg_thresh": 0.0, "start": 4})
        supervisor = Supervisor(crf=TestSupervisor.CRF, grow=eager, boundary_loss=False)
        folder = tmp_path / "growth"
        watch = GrowthRecorder(*(index, seeds, watch_params()), size=33, supervisor=supervisor, folder=folder)
        before, together = torch.get_rng_state(), []
        network.register_forward_pre_hook(lambda module, inputs: together.append(len(inputs[0])))
        for done in range(1, 7):
            watch(network, done)
        assert together == [1] * 4, "as many at once as a training step has memory for"
        assert torch.equal(torch.get_rng_state(), before) and network.training
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
        assert files == ["deep im/000003.png", "deep im/000006.png", "im0/000003.png", "im0/000006.png"]
        images = warp_to_square(pictures.values(), 33)
        probs = smoothed_softmax(network.eval()(images), min_prob=1e-4).detach()
        grown = supervisor(images, probs, torch.from_numpy(seeds), torch.ones(2, 3, dtype=torch.bool), step=5).labels
        for row, image_id in enumerate(index.ids):
            early, late = (read_mask(folder / image_id / f"{step:06d}.png") for step in (3, 6))
            np.testing.assert_array_equal(early, seeds[row])  # growth starts after 4 steps
            np.testing.assert_array_equal(late, grown[row])
            assert (late != early).any()

        drawn = tmp_path / "drawn"
        write_growth(watch, network, maps=drawn / "maps", strips=drawn / "strips")
        for row, image_id in enumerate(index.ids):
            grown = read_growth(drawn / "maps", image_id)
            assert sorted(grown) == [3, 6]
            strip, image = read_image(drawn / "strips" / f"{image_id}.png"), index.image(row)
            last = panels([("prediction", overlay(image, probs[row].argmax(dim=0).to(torch.uint8).numpy()))])
            np.testing.assert_array_equal(strip[:, -last.shape[1] :], last)

    def test_without_images_there_are_no_strips(self, tmp_path):
        index = save_index(tmp_path, {"im0": picture(40, 60, seed=0)}, [[1, 1]]).pick([])
        watch = GrowthRecorder(
            *(index, np.empty((0, 5, 5), np.uint8), watch_params()), size=33, supervisor=None, folder=tmp_path / "none"
        )
        watch(small_segmenter(), 6)
        write_growth(watch, small_segmenter(), maps=tmp_path / "maps", strips=tmp_path / "strips")
        assert not list((tmp_path / "maps").iterdir()) and not list((tmp_path / "strips").iterdir())


@pytest.mark.parametrize("device, hooks", [("cpu", 1), ("cuda", 0)])
def test_python_runs_in_a_backward_pass_only_where_signals_need_it(device, hooks):
    network = torch.nn.Linear(2, 1)
    let_stops_through(network, torch.device(device))
    found = [len(parameter._post_accumulate_grad_hooks or ()) for parameter in network.parameters()]
    assert found == [hooks, hooks]
