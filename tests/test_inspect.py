"""`dsrg inspect` without a browser: what it computes, what it serves and what it refuses."""

import asyncio
import importlib
import ipaddress
import json
import shutil
import socket
import subprocess
import tracemalloc
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest
import torch
from aiohttp.test_utils import TestClient, TestServer
from dvc.repo import Repo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from ruamel.yaml import YAML
from yarl import URL

from dsrg.artifacts.seeds_h5 import write_seeds
from dsrg.data.images import read_mask
from dsrg.data.index import Index, read_ground_truth, write_index
from dsrg.errors import InputError
from dsrg.evaluation.scores import with_ground_truth
from dsrg.inspect.layers import at_most
from dsrg.inspect.reseeding import disagreement, live_seeds
from dsrg.inspect.revision import run_at
from dsrg.inspect.run import KEYS, MAKERS, Run, Thresholds
from dsrg.inspect.server import HOST, _Pages, create_app, is_own_name, serve
from dsrg.inspect.tally import Tally, threshold_steps
from dsrg.method.grid import UNLABELED
from dsrg.project import load_project
from dsrg.stage import load_stage
from helpers import ROOT
from helpers.command import run_dsrg
from helpers.inspected import drawn_maps, imported, opened, seed_maps, seed_settings
from helpers.project import changed_params, run_stage

HOME = "127.0.0.1"


@pytest.fixture
def project(finished, monkeypatch) -> Run:
    monkeypatch.chdir(finished)
    return opened()


TOKEN = "only-who-has-the-address"


def asked(
    project: Run,
    *paths: str,
    method: str = "GET",
    other: Run | None = None,
    token: str | None = None,
    data: str | None = None,
    **headers: str,
) -> list:
    """(status, body, headers) of each path, from a server of its own, which can be written to if it has a token."""

    async def talk() -> list:
        async with TestClient(TestServer(create_app(project, other=other, token=token))) as client:
            answers = []
            for path in paths:
                url = URL(str(client.make_url("/")).rstrip("/") + path, encoded=True)
                async with client.session.request(method, url, headers=headers, data=data) as answer:
                    answers.append((answer.status, await answer.read(), answer.headers))
            return answers

    return asyncio.run(talk())


POINT = '{"add": [{"class": "background", "radius": 0, "path": [[1, 2]]}], "remove": []}'
MALFORMED = [
    ("[[1, 2]]", "[]"),
    ("[[1, 2]]", "[[1, 2, 3]]"),
    ("[[1, 2]]", '[["1", 2]]'),
    ("[[1, 2]]", "[[NaN, 2]]"),
    ("[[1, 2]]", "[[true, 2]]"),
    ('"radius": 0', '"radius": 1e999'),
    ('"class": "background"', '"class": 0'),
    ('"radius": 0, ', ""),
]


def told(project: Run, path: str) -> dict:
    ((status, body, _),) = asked(project, path)
    assert status == 200, body
    return json.loads(body)


def told_once(project: Run, path: str, holds: Callable[[dict], bool]) -> dict:
    """The first answer of one server of which something holds, within a minute."""

    async def talk() -> dict:
        async with TestClient(TestServer(create_app(project))) as client:
            while not holds(answer := await (await client.get(path)).json()):
                await asyncio.sleep(0.02)
            return answer

    return asyncio.run(asyncio.wait_for(talk(), 60))


def live_path(image_id: str, thresholds: Thresholds, *, grow: bool = True) -> str:
    query = "&".join(f"{key}={value}" for key, value in zip(KEYS, thresholds, strict=True))
    return f"/api/live/{image_id}?{query}&grow={int(grow)}"


def labels_of(layer: dict) -> np.ndarray:
    return np.frombuffer(b64decode(layer["data"]), np.uint8).reshape(layer["height"], layer["width"])


def with_params(project: Run, **changes: dict) -> Run:
    values = project.params.model_dump()
    values |= {section: values[section] | own for section, own in changes.items()}
    return Run(replace(project.project, params=type(project.params).model_validate(values)))


# Live is what the stages make


class TestLive:
    def test_seeds_at_other_thresholds_are_what_the_stage_makes_of_them(self, finished_copy):
        now = Thresholds(0.4, 0.35, 0.5, 0.5)
        before = opened()
        made = [labels_of(before.live(image_id, now, growing=False)["seeds"]) for image_id in before.seeds.ids]
        set_params(finished_copy, now)
        importlib.import_module("stages.make_seeds").make_seeds(load_stage("make_seeds"))
        after = opened().seeds.in_order(before.seeds.ids)
        assert not np.array_equal(after, before.seeds.seeds), "the thresholds change something"
        np.testing.assert_array_equal(np.stack(made), after)

    @pytest.mark.parametrize(
        "on, threshold, precision", [("crf", 0.0, "fp32"), ("both", 0.5, "fp32"), ("softmax", 0.145, "bf16")]
    )
    def test_growth_is_that_of_the_training_s_end(self, finished_copy, on, threshold, precision):
        now = opened().before._replace(grow_fg=threshold, grow_bg=threshold)
        set_params(finished_copy, now, {"grow": {"on": on}, "dsrg": {"precision": precision}})
        importlib.import_module("stages.train_dsrg").train_dsrg(load_stage("train_dsrg"))
        project = opened()
        assert len(project.watched_ids) == 2
        grown = [labels_of(project.live(one, now, growing=True)["regrown"]) for one in project.watched_ids]
        steps = [project.grown(image_id) for image_id in project.watched_ids]
        np.testing.assert_array_equal(grown, [one[max(one)] for one in steps])
        assert not np.array_equal(grown, project.seeds.in_order(project.watched_ids)), "some have grown"

    def test_the_command_gives_dvc_the_very_number(self):
        """What YAML reads from the line is the threshold that was shown, however small."""
        before = Thresholds(0.5, 0.5, 0.5, 0.5)
        for value in [*threshold_steps(0.06), 1e-5, 1 / 3]:
            if value != 0.5:
                text = before._replace(seeds_bg=value).command(before).split("=")[1]
                assert YAML(typ="safe", pure=True).load(text) == value

    def test_moving_a_threshold_runs_no_network_and_reads_no_file(self, project, monkeypatch):
        image_id = project.watched_ids[0]
        project.live(image_id, project.before, growing=True)

        def refuse(*_: object) -> None:
            pytest.fail("it is at hand already")

        monkeypatch.setattr(project, "image", refuse)
        monkeypatch.setattr(project.grower, "growth_probs", refuse)
        assert project.live(image_id, project.before._replace(seeds_fg=0.3, grow_fg=0.7), growing=True)["regrown"]


def set_params(folder: Path, thresholds: Thresholds, changes: dict[str, dict] | None = None) -> None:
    path, own = folder / "params.yaml", (key.split(".") for key in KEYS)
    layers = [{section: {name: value}} for (section, name), value in zip(own, thresholds, strict=True)]
    path.write_text(changed_params(path, *layers, changes or {}))


# The tally


class TestTally:
    @settings(max_examples=30, deadline=None)
    @given(st.lists(seed_maps, min_size=1, max_size=3), st.data())
    def test_it_counts_what_the_seeds_made_anew_amount_to(self, maps, data):
        use = data.draw(st.sampled_from(["agree", "none", "replace"]))
        rule = data.draw(st.sampled_from(["smaller", "unlabeled", "harmonic"]))
        chosen = seed_settings(use=use, fg_thresh=0.125, bg_thresh=0.0625)
        chosen = chosen.model_copy(update={"rule": rule} if rule == "harmonic" else {"conflict": rule})
        tally = Tally(chosen)
        for one in maps:
            tally.add(one)
        step = st.sampled_from(tally.fg), st.sampled_from(tally.bg)
        for fg_thresh, bg_thresh in [(0.0, 0.0), (1.0, 1.0), (0.25, 0.5), *data.draw(st.lists(st.tuples(*step)))]:
            made = [live_seeds(one, chosen, fg_thresh=fg_thresh, bg_thresh=bg_thresh) for one in maps]
            cells = torch.stack(made)
            found = tally.coverage(fg_thresh=fg_thresh, bg_thresh=bg_thresh)
            assert found == pytest.approx((cells != UNLABELED).float().mean().item())

    def test_nothing_is_made_up(self):
        tally = Tally(seed_settings())
        assert tally.coverage(fg_thresh=0.5, bg_thresh=0.5) is None, "nothing counted yet"
        maps = drawn_maps(np.ones((1, 2, 2), np.float32), np.ones((2, 2), np.float32), np.ones((2, 2), np.uint8), [1])
        tally.add(maps)
        assert tally.coverage(fg_thresh=0.123456, bg_thresh=0.5) is None, "not in the lists"

    def test_the_value_of_params_is_on_offer(self):
        assert len(threshold_steps(0.2)) == 101
        assert len(threshold_steps(0.996)) == 102 and 0.996 in threshold_steps(0.996)

    @settings(max_examples=30, deadline=None)
    @given(seed_maps)
    def test_disagreement_is_the_share_of_cells_with_several_claims(self, maps):
        claims = (maps.cams > 0.25 * maps.cams.amax(dim=(2, 3), keepdim=True)) & maps.present[:, 1:, None, None]
        expected = (claims.sum(dim=1) > 1).float().mean().item()
        assert disagreement(maps, fg_thresh=0.25) == pytest.approx(expected)


# What is found and in which order


class TestGrid:
    def find(self, project: Run, **wanted: object) -> list[str]:
        plain = {"search": "", "tag": "", "split": "", "sort": "id", "descending": False}
        return [project.index.ids[row] for row in project.find(**plain | wanted)]

    def test_search_class_and_split(self, project):
        assert self.find(project) == sorted(project.index.ids)
        assert self.find(project, descending=True) == sorted(project.index.ids, reverse=True)
        assert self.find(project, search="TRAIN000") == [f"train{k:04d}" for k in range(10)]
        assert self.find(project, split="val") == [f"val{k:04d}" for k in range(4)]
        tag = project.classes[int(np.flatnonzero(project.index.present[0, 1:])[0])]
        found = self.find(project, tag=tag, split="train")
        assert "train0000" in found
        assert len(found) == project.index.split("train").present[:, project.classes.index(tag) + 1].sum()

    def test_sorted_by_growth(self, project):
        assert set(self.find(project, sort="growth")[:2]) == {"train0000", "train0001"}
        row = project.row["train0000"]
        steps = project.grown("train0000")
        more = (steps[max(steps)] != UNLABELED).mean() - (project.seeds.seeds[0] != UNLABELED).mean()
        assert project.growth[row] == pytest.approx(more)

    @pytest.mark.parametrize("sort, total", [("iou", 4), ("clicks", 12)])
    def test_the_server_finds_out_what_it_is_asked_to_sort_by(self, project, sort, total):
        path = f"/api/images?sort={sort}&order=descending"
        answer = told_once(project, path, lambda answer: answer["known"] == total and not answer["working"])
        values = [row[sort] for row in answer["rows"]]
        assert answer["total"] == total and values == sorted(values, reverse=True)
        if sort == "clicks":
            useful = [row for row in answer["rows"] if row["reasons"]]
            clicks = sum(len(row["tags"]) for row in useful)
            assert useful and answer["minutes"] == pytest.approx((len(useful) * 5 + clicks * 2.4) / 60)
            assert told(project, "/api/image/" + useful[0]["id"])["reasons"] == useful[0]["reasons"]

    def test_what_is_asked_for_is_checked(self, project):
        wrong = ["sort=size", "order=up", "start=-1", "count=x", "start=99999999999", "tag=unicorn", "split=test"]
        assert [status for status, *_ in asked(project, *(f"/api/images?{query}" for query in wrong))] == [400] * 7


# Layers


class TestLayers:
    def test_a_training_image_has_all_but_ground_truth(self, project):
        answer = told(project, "/api/image/train0000")
        cams = [f"cam{k}" for k in project.tags(0)]
        found = {layer["key"]: layer for layer in answer["layers"]}
        assert list(found) == [*cams, "saliency", "seeds", "crf", "grown", "pseudo"]
        assert answer["tags"] == project.tags(0) and answer["split"] == "train"
        np.testing.assert_array_equal(labels_of(found["seeds"]), project.seeds.seeds[0])
        saliency, by_class = project.seeds.maps("train0000")
        shown = np.frombuffer(b64decode(found["saliency"]["data"]), "<f4").reshape(saliency.shape)
        np.testing.assert_array_equal(shown, saliency)
        assert set(by_class) == set(project.tags(0))
        pseudo = read_mask(project.paths.pseudo_labels / "train0000.png")
        np.testing.assert_array_equal(labels_of(found["pseudo"]), pseudo)
        steps = {step["step"]: labels_of(step) for step in found["grown"]["steps"]}
        assert list(steps) == sorted(project.grown("train0000"))

    def test_an_evaluation_image_has_ground_truth_and_prediction(self, project):
        (truth,) = told(project, "/api/image/val0001")["layers"]
        np.testing.assert_array_equal(labels_of(truth), project.truth("val0001"))
        prediction = told(project, "/api/prediction/val0001")
        assert labels_of(prediction).shape == labels_of(truth).shape
        sure = np.frombuffer(b64decode(prediction["sure"]["data"]), "<f4")
        assert 0 <= sure.min() and sure.max() <= 1

    def test_training_masks_stay_unseen(self, project):
        truth = read_ground_truth(project.paths.ground_truth)
        assert len(with_ground_truth(project.index.split("train"), truth)) == 12, "there are some"
        assert sorted(project.masks) == [f"val{k:04d}" for k in range(4)]

    def test_predictions_of_large_images_are_kept_as_small_as_they_were_made(self, project):
        small = with_params(project, evaluate={"max_side": 32})
        layer, whole = small.prediction("val0000"), small.truth("val0000")
        assert max(layer["height"], layer["width"]) == 32 < max(whole.shape)
        small.score("val0000")
        assert 0 <= small.iou[small.row["val0000"]] <= 1

    def test_large_label_maps_are_thinned(self):
        assert at_most(np.zeros((2401, 100))).shape == (801, 34)
        assert at_most(np.zeros((1200, 1200))).shape == (1200, 1200)

    def test_pictures(self, project):
        (_, thumb, _), (_, seeded, _), (_, whole, _) = asked(
            project, "/thumb/train0000", "/thumb/train0000?seeds=1", "/image/train0000"
        )
        size = Image.open(BytesIO(whole)).size
        assert size == (project.index.widths[0], project.index.heights[0])
        assert max(Image.open(BytesIO(thumb)).size) <= 160 and thumb != seeded

    @pytest.mark.parametrize("image_id", ["a{b}", "90%25", "c#d e", "ä+&;"])
    def test_an_image_of_any_name_is_found(self, finished_copy, image_id):
        index = finished_copy / "data/index.csv"
        index.write_text(index.read_text().replace("train0003,", f"{image_id},"))
        name = quote(image_id, safe="!~*'()")  # as encodeURIComponent has it
        assert [status for status, *_ in asked(opened(), f"/image/{name}", f"/api/image/{name}")] == [200] * 2


# What is missing


class TestMissing:
    def test_no_index(self, finished_copy):
        (finished_copy / "data/index.csv").unlink()
        with pytest.raises(InputError, match="index.csv.*dvc repro prepare"):
            opened()

    @pytest.mark.parametrize("key", [key for key in MAKERS if key != "index"])
    def test_each_artifact_is_named_with_its_stage(self, finished_copy, key):
        project = opened()
        assert project.missing() == []
        path = getattr(project.paths, key)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        project = opened()
        assert project.missing() == [f"{path}: not made yet: run `dvc repro {MAKERS[key]}`"]
        shown = [*project.layers("train0000"), project.prediction("train0000")]
        reasons = [layer["why"] for layer in shown if layer["kind"] == "missing"]
        reasons += [why for why in project.why_fixed().values() if why]
        if key != "retrain":  # the first network predicts in its place
            assert any(f"dvc repro {MAKERS[key]}" in why for why in reasons)

    def test_what_is_made_meanwhile_is_told(self, finished_copy):
        """A file that is open shows what it held."""
        project = opened()
        run_stage("make_seeds")
        (told,) = project.missing()
        assert told.startswith(f"{project.paths.seeds}: ") and "start `dsrg inspect` again" in told
        assert opened().missing() == []

    def test_stages_are_those_of_dvc_yaml(self):
        stages = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
        for key, stage in MAKERS.items():
            assert f"${{file.{key}}}" in stages[stage]["outs"]

    def test_only_images_and_tags(self, finished_copy):
        """After `prepare` the grid is there already."""
        for key in MAKERS:
            path = getattr(opened().paths, key)
            if key != "index":
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.rmtree(finished_copy / "data/masks")
        (finished_copy / "data/ground_truth.csv").unlink()
        project = opened()
        assert told(project, "/api/images")["total"] == 16
        assert told(project, "/api/state")["fixed"]["seeds"] == "not made yet: run `dvc repro make_seeds`"
        kinds = [layer["kind"] for layer in told(project, "/api/image/val0000")["layers"]]
        assert kinds == ["missing"]
        assert told(project, "/api/prediction/val0000")["why"] == "not made yet: run `dvc repro retrain`"

    def test_a_broken_file_is_told_and_the_rest_is_shown(self, finished_copy):
        seeds = (finished_copy / "data/seeds.h5").read_bytes()
        (finished_copy / "data/seeds.h5").write_bytes(b"nothing")
        assert "not a seeds file of version 2" in opened().why_fixed()["seeds"]
        (finished_copy / "data/seeds.h5").write_bytes(seeds)
        (finished_copy / "data/pseudo_labels/train0000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        (finished_copy / "data/retrain.safetensors").write_bytes(b"no model")
        project = opened()
        layers = {layer["key"]: layer for layer in project.layers("train0000")}
        assert layers["seeds"]["kind"] == "labels" and "pseudo_labels/train0000.png" in layers["pseudo"]["why"]
        assert "not readable as a model" in project.prediction("train0000")["why"]

    def test_a_missing_picture_is_told(self, finished_copy):
        project = opened()
        (project.index.root / project.index.paths[0]).unlink()
        ((status, body, _),) = asked(project, "/image/train0000")
        assert status == 409 and "train0000.jpg" in json.loads(body)["problem"]

    def test_imported_seeds_have_no_thresholds_to_move(self, finished_copy):
        project = opened()
        rows = imported(project)
        grid = project.seeds.seeds.shape[1]
        write_seeds(project.paths.seeds, rows, count=len(rows), grid=grid, classes=project.classes, params="{}")
        project = opened()
        assert "imported" in project.why_fixed()["seeds"] and project.to_count() == [] and project.to_watch() == []
        layers = {layer["key"]: layer for layer in project.layers("train0000")}
        assert layers["maps"]["kind"] == "missing" and layers["seeds"]["kind"] == "labels"
        same = project.live("train0000", project.before._replace(seeds_fg=0.9), growing=True)
        np.testing.assert_array_equal(labels_of(same["seeds"]), project.seeds.seeds[0])

    def test_seeds_that_no_threshold_moves(self, project):
        crf = project.params.seeds.crf.model_dump() | {"use": "replace"}
        for change, named in (({"crf": crf}, "seeds.crf.use"), ({"rule": "harmonic"}, "seeds.rule")):
            fixed = with_params(project, seeds=change).why_fixed()
            assert named in fixed["seeds"] and fixed["grow"] is None


# The door


class TestDoor:
    @pytest.mark.parametrize(
        "image_id",
        ["nothing", "..", "%2e%2e", "..%2findex.csv", "%2Fetc%2Fpasswd", "train0000.jpg", "train0000%00", "a%5Cb", ""],
    )
    def test_other_ids_get_404(self, project, image_id):
        paths = [f"{start}/{image_id}" for start in ("/image", "/thumb", "/api/image", "/api/prediction")]
        paths.append(live_path(image_id, project.before))
        assert [status for status, *_ in asked(project, *paths)] == [404] * 5

    def test_files_beside_the_page_are_not_served(self, project):
        paths = ["/params.yaml", "/data/index.csv", "/server.py", "/..%2fserver.py", "/page.html", "/static/page.css"]
        assert [status for status, *_ in asked(project, *paths)] == [404] * 6

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
    def test_nothing_can_be_written(self, project, method):
        found = asked(project, "/", "/api/state", "/image/train0000", method=method)
        assert [status for status, *_ in found] == [405] * 3

    @pytest.mark.parametrize("token", [None, TOKEN], ids=["without --edit", "with"])
    @pytest.mark.parametrize("sent", ["", "only-who-has-the-addres", TOKEN.upper(), "größe"])
    def test_points_are_set_by_those_alone_who_have_the_token(self, project, token, sent):
        before = (project.editor.path).read_bytes()
        headers = {"X-Token": sent} if sent else {}
        ((status, *_),) = asked(project, "/api/points/train0000", method="POST", token=token, data=POINT, **headers)
        assert status == (404 if token is None else 403) and project.editor.path.read_bytes() == before

    @pytest.mark.parametrize(
        "data",
        [
            *("", "[]", "null", '{"add": []}', '{"add": [], "remove": [], "more": []}', "[" * 100_000),
            *(POINT.replace(old, new) for old, new in MALFORMED),
        ],
    )
    def test_what_is_no_change_of_points_is_refused(self, project, data):
        before = project.editor.path.read_bytes()
        write = {"method": "POST", "token": TOKEN, "X-Token": TOKEN}
        ((status, body, _),) = asked(project, "/api/points/train0000", data=data, **write)
        assert status == 400 and body and project.editor.path.read_bytes() == before

    def test_points_are_set_where_they_make_sense(self, finished_copy):
        project, write = opened(), {"method": "POST", "token": TOKEN, "X-Token": TOKEN}
        for path, data, expected in (
            ("/api/points/val0000", POINT, 400),
            ("/api/points/nothing", POINT, 404),
            ("/api/points/train0000", POINT.replace("[1, 2]", "[1, 2000]"), 409),
            ("/api/points/train0000", POINT.replace("background", "dragon"), 409),
            ("/api/points/train0000", POINT, 200),
        ):
            ((status, body, _),) = asked(project, path, data=data, **write)
            assert status == expected, body
        added = json.loads(POINT)["add"]
        assert json.loads(body) == {"marks": added}
        assert told(project, "/api/image/train0000")["marks"] == added

    def test_a_strange_name_is_refused_everywhere(self, project):
        for path in ("/", "/api/state", "/image/train0000", "/nowhere"):
            for name in ("evil.example", "evil.example:8765", "127.0.0.1.evil.example", ""):
                ((status, body, _),) = asked(project, path, Host=name)
                assert status == 403 and b"train" not in body

    def test_own_names(self):
        own = ["127.0.0.1:8765", "localhost:8765", "LOCALHOST", "[::1]:8765", "[::1]"]
        others = ["192.168.1.7:8765", "0.0.0.0:8765", "lab.example:8765", "localhost.evil.example", ""]
        assert [name for name in own + others if is_own_name(name)] == own

    def test_the_page_may_load_nothing_from_elsewhere(self, project):
        for status, _, headers in asked(project, "/", "/page.js", "/nowhere"):
            assert headers["Content-Security-Policy"].startswith("default-src 'self';"), status
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"

    def test_thresholds_are_checked(self, project):
        wrong = ["", "seeds.fg_thresh=0.5", "&".join(f"{key}={2 * (key == KEYS[0])}" for key in KEYS)]
        paths = [f"/api/live/train0000?{query}" for query in wrong]
        paths += [live_path("train0000", Thresholds(float("nan"), 0, 0, 0)), live_path("val0000", project.before)]
        assert [status for status, *_ in asked(project, *paths)] == [400, 400, 400, 400, 409]

    def test_coverage_of_all_is_told_once_counted(self, project):
        path = live_path("train0000", project.before._replace(seeds_fg=0.5))
        answer = told_once(project, path, lambda answer: not answer["counting"])
        before, after = answer["coverage"]["set"]
        assert answer["counted"] == 12 and before == pytest.approx((project.seeds.seeds != UNLABELED).mean())
        assert after != before
        recorded = [project.live(image_id, project.before, growing=True) for image_id in project.watched_ids]
        shares = [(labels_of(one["regrown"]) != UNLABELED).mean() for one in recorded]
        assert answer["coverage"]["watched"][0] == pytest.approx(np.mean(shares))

    def test_a_count_that_ends_during_the_look_is_told_as_going_on(self):
        """Else the page would take the answer, in which the last image is missing, for the last one."""
        pages = _Pages(SimpleNamespace(row={"a": 0}, classes=[]), None)
        now = dict.fromkeys(KEYS, "0.5")
        request = SimpleNamespace(match_info={"id": "a"}, query=now | {"sort": "disagreement"})

        def look(*_: object, **__: object) -> dict:
            pages.counted = True
            return {}

        pages.run.live = look
        pages.run.find = lambda **_: look() or []
        pages.run.disagreement = np.zeros(0)
        assert json.loads(asyncio.run(pages.live(request)).body)["counting"]
        pages.counted = False
        assert json.loads(asyncio.run(pages.images(request)).body)["working"]

    def test_an_address_in_use(self, project):
        with socket.create_server((HOME, 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(InputError, match=f"127.0.0.1:{port}: .*--port"):
                serve(project, port=port, ready=print)

    def test_command(self, finished, monkeypatch):
        """The command prints its address, opens it unless told not to, and listens at loopback only."""
        monkeypatch.chdir(finished)
        served, visited = [], []
        monkeypatch.setattr("aiohttp.web.run_app", lambda app, *, sock, **_: served.append(sock.getsockname()))
        monkeypatch.setattr("webbrowser.open", visited.append)
        for options in (["--no-browser"], []):
            said = run_dsrg("inspect", "--port", "0", *options)
            assert said == f"http://127.0.0.1:{served[-1][1]}/\n"
        assert visited == [said.strip()] and all(host == HOME for host, _ in served)

    def test_others_cannot_be_let_in(self, finished, monkeypatch):
        """There is no address to choose, and the one it listens at is loopback's."""
        monkeypatch.chdir(finished)
        assert "No such option" in run_dsrg("inspect", "--no-browser", "--host", "0.0.0.0", code=2)
        assert ipaddress.ip_address(HOST).is_loopback


# Another run beside


def run_git(*arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@y.z", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def committed(finished, tmp_path_factory) -> Path:
    """A finished run in Git and DVC, and after it a working tree whose seeds are gone."""
    place = tmp_path_factory.mktemp("committed") / "copy"
    shutil.copytree(finished, place)
    (place / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", place / ".dvc" / "config")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(place)
        run_git("init", "-q")
        with Repo() as repo:
            repo.commit(force=True)
        run_git("add", "-A")
        run_git("commit", "-qm", "a run")
        run_git("tag", "first")
    (place / "data/seeds.h5").unlink()
    return place


class TestBeside:
    def at(self, revision: str, folder: Path) -> Run:
        return run_at(revision, folder, load_project())

    def test_its_layers_are_those_of_that_run(self, committed, project, tmp_path, monkeypatch):
        expected = project.layers("train0000")
        monkeypatch.chdir(committed)
        other, now = self.at("first", tmp_path), opened()
        assert other.layers("train0000") == expected
        mine, beside = asked(now, "/api/image/train0000", "/api/image/train0000?run=other", other=other)
        assert json.loads(beside[1])["layers"] == expected
        assert json.loads(mine[1])["layers"][0]["kind"] == "missing", "this one has lost its seeds"

    def test_without_another_run_there_is_one(self, project):
        first, second = asked(project, "/api/image/train0000", "/api/image/train0000?run=other")
        assert first[1] == second[1]
        assert told(project, "/api/state")["other"] is None

    def test_no_such_revision(self, committed, tmp_path, monkeypatch):
        monkeypatch.chdir(committed)
        with pytest.raises(InputError, match="--rev nonsense: unknown Git revision"):
            self.at("nonsense", tmp_path)

    def test_no_repository(self, finished_copy, tmp_path):
        with pytest.raises(InputError, match="--rev first: .*not inside of a DVC repository"):
            self.at("first", tmp_path)

    def test_a_cache_that_has_lost_its_files(self, committed, tmp_path, monkeypatch):
        shutil.copytree(committed, tmp_path / "lost")
        monkeypatch.chdir(tmp_path / "lost")
        shutil.rmtree(tmp_path / "lost/.dvc/cache")
        with pytest.raises(InputError, match="--rev first: .*dvc fetch"):
            self.at("first", tmp_path / "files")

    def test_command(self, committed, monkeypatch):
        """The copy is gone when the server has ended."""
        monkeypatch.chdir(committed)
        served = []
        monkeypatch.setattr("dsrg.inspect.server.serve", lambda *_, other, **__: served.append(other))
        run_dsrg("inspect", "--rev", "first")
        assert served[0].name == "first" and not served[0].paths.seeds.exists()


# Many images


class TestMany:
    COUNT = 10_000

    @pytest.fixture
    def many(self, tmp_path, project) -> Run:
        """Ten thousand rows that share the tiny project's pictures."""
        few = project.index.split("train")
        rows = [k % len(few) for k in range(self.COUNT)]
        one = few.pick(rows)
        ids = [f"image{k:05d}" for k in range(self.COUNT)]
        index = Index(ids, one.splits, one.paths, one.heights, one.widths, one.present, one.checksums)
        write_index(tmp_path / "index.csv", index, project.classes)
        own = project.project
        return Run(replace(own, paths=replace(own.paths, index=tmp_path / "index.csv")))

    def test_the_grid_comes_in_parts(self, many):
        for query in ("", "sort=coverage&order=descending&start=9000", "search=999", "sort=disagreement"):
            answer = told(many, f"/api/images?{query}")
            assert len(answer["rows"]) == min(100, answer["total"]) > 0
        assert told(many, "/api/images")["total"] == self.COUNT

    def test_thumbnails_are_made_on_demand_and_few_are_kept(self, many):
        tracemalloc.start()
        many.thumbnail.cache_clear()
        for image_id in many.index.ids[:40]:
            many.thumbnail(image_id, False)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        info = many.thumbnail.cache_info()
        assert info.currsize == 40 and info.maxsize * kept / 40 < 64 * 2**20
