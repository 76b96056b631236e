"""The page's server: answers only those who call it by its own name; writes points, and for those alone who have its
token, with `dsrg inspect --edit`.

    /                     the page                /thumb/ID   small JPEG (?seeds=1: with seeds)
    /api/state            classes, thresholds     /image/ID   JPEG
    /api/images           rows of the grid        /api/image/ID, /api/prediction/ID, /api/live/ID   layers
                                                 (?run=other: of the run beside)
    POST /api/points/ID   with the header X-Token: see Changes

What whole data sets amount to is counted in the background, and reported as far as it is known.
"""

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import time
import webbrowser
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from dsrg.data.palette import voc_palette
from dsrg.errors import InputError
from dsrg.files import write_text
from dsrg.inspect.run import KEYS, SORTS, Run, Thresholds

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}  # of the page's files, beside this one
HEADERS = {
    # the page may load nothing from elsewhere, and nobody elsewhere may load or frame anything from here
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
HOST = "127.0.0.1"  # this machine alone: the page shows whatever the project holds, and asks nobody who they are
ROWS_MAX = 500  # of the grid, in one answer
SPLIT_OF = {"iou": "val", "clicks": "train"}  # orders that are of one split, and found out when they are asked for
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
FOUR = TypeAdapter(tuple[(Annotated[float, Field(ge=0, le=1)],) * len(KEYS)])  # thresholds, in the order of KEYS


class Wanted(BaseModel):
    """Rows of the grid."""

    search: str = ""
    tag: str = ""
    split: Literal["", "train", "val"] = ""
    sort: Literal[SORTS] = "id"
    order: Literal["ascending", "descending"] = "ascending"
    start: int = Field(0, ge=0, lt=10**9)
    count: int = Field(100, ge=0, lt=10**9)


class _Mark(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    name: str = Field(alias="class")
    radius: float
    path: list[tuple[float, float]] = Field(min_length=1)


class Changes(BaseModel):
    """Of an image's points: marks {"class": "dog", "radius": 0, "path": [[x, y] ...]}, in pixels of the image."""

    model_config = ConfigDict(extra="forbid")
    add: list[_Mark]
    remove: list[_Mark]


def serve(run: Run, *, port: int, ready: Callable[[str], None], other: Run | None = None, edit: bool = False) -> None:
    """Serve until interrupted; `ready` is called with the address. Port 0 takes a free one.

    other: a second run, shown beside the first.
    edit: points may be set, by whoever has the address with its token, which nobody else can guess.

    Raises InputError when the address cannot be had.
    """
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise InputError(f"{HOST}:{port}: {error.strerror or error}; choose another --port") from None
    token = secrets.token_urlsafe() if edit else None
    ready(f"http://{HOST}:{listening.getsockname()[1]}/{f'?token={token}' if token else ''}")
    web.run_app(create_app(run, other=other, token=token), sock=listening, print=None, access_log=None)


def open_browser(address: str, folder: Path) -> None:
    """Open an address by way of a page in `folder`, which is for this user alone: who runs `ps` sees no token."""
    page = folder / "open.html"
    write_text(page, f'<meta http-equiv="refresh" content="0; url={address}">')
    webbrowser.open(page.as_uri())


def create_app(run: Run, *, other: Run | None = None, token: str | None = None) -> web.Application:
    """The application, to be served at loopback. Without a token it writes nothing."""
    app = web.Application(middlewares=[_guard, _problems])
    pages = _Pages(run, other, token)
    for file in Path(__file__).parent.iterdir():
        if kind := KINDS.get(file.suffix):
            app.router.add_get("/" if file.name == "page.html" else f"/{file.name}", _file(file, kind))
    one = "{id:[^/]+}"  # aiohttp's own pattern knows no braces in ids
    for path, answer in {
        "/api/state": pages.state,
        "/api/images": pages.images,
        f"/thumb/{one}": pages.thumbnail,
        f"/image/{one}": pages.image,
        f"/api/image/{one}": pages.layers,
        f"/api/prediction/{one}": pages.prediction,
        f"/api/live/{one}": pages.live,
    }.items():
        app.router.add_get(path, answer)
    if token is not None:
        app.router.add_post(f"/api/points/{one}", pages.change_points)
    app.cleanup_ctx.append(pages.beside)
    return app


def is_own_name(name: str) -> bool:
    """Whether a request's Host header, its port included, may name this server: `localhost` or a loopback address.

    A page from elsewhere whose name was made to point here (DNS rebinding) comes with that name.
    """
    bare = name.rsplit(":", 1)[0] if not name.endswith("]") else name
    bare = bare.strip("[]").casefold()
    try:
        return bare == "localhost" or ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    if not is_own_name(request.headers.get("Host", "")):
        raise web.HTTPForbidden(text="not this server's name")
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.headers.update(HEADERS)
        raise
    response.headers.update(HEADERS)
    return response


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What is wrong with a file of the project, or with a request, becomes a message for the page."""
    try:
        return await handler(request)
    except ValidationError as error:
        raise web.HTTPBadRequest(text="; ".join(f"{one['loc']}: {one['msg']}" for one in error.errors())) from None
    except InputError as error:
        return web.json_response({"problem": str(error)}, status=409)


def _file(path: Path, kind: str) -> Handler:
    data = path.read_bytes()

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=data, content_type=kind, charset="utf-8", headers={"Cache-Control": "no-cache"})

    return answer


class _Pages:
    """Answers to requests. Networks run in one thread, one after the other; all else in a few."""

    def __init__(self, run: Run, other: Run | None, token: str | None = None) -> None:
        self.run, self.other, self.token = run, other, token
        self.networks = ThreadPoolExecutor(1, "networks")
        self.asked: dict[str, asyncio.Task] = {}  # what is found out once the grid is sorted by it
        self.counted = False

    async def state(self, _: web.Request) -> web.Response:
        state = await asyncio.to_thread(self.run.state)
        viridis = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
        colors = {"palette": _bytes(voc_palette()), "viridis": _bytes(viridis)}
        editor, edit = self.run.editor, None
        if self.token is not None:
            edit = {"file": str(self.run.params.data.points), "why": await asyncio.to_thread(editor.why_not)}
        return web.json_response(state | colors | {"other": self.other and self.other.name, "edit": edit})

    async def images(self, request: web.Request) -> web.Response:
        run, wanted = self.run, Wanted(**dict(request.query))
        sort = wanted.sort
        if wanted.tag not in ("", *run.classes):
            raise web.HTTPBadRequest(text="no such class")
        if sort in SPLIT_OF:
            wanted.split = SPLIT_OF[sort]
            self._find_out(sort)

        def found() -> dict:
            asked = wanted.model_dump(include={"search", "tag", "split", "sort"})
            rows = run.find(**asked, descending=wanted.order == "descending")
            part = rows[wanted.start :][: min(wanted.count, ROWS_MAX)]
            known = len(rows) if sort == "id" else int(np.isfinite(getattr(run, sort)[rows]).sum())
            minutes = run.minutes(rows) if sort == "clicks" else None
            described = [run.described(row) for row in part]
            return {"total": len(rows), "known": known, "minutes": minutes, "rows": described}

        # whether more will be known later; asked before the look, for it may end meanwhile
        working = (sort == "disagreement" and not self.counted) or (sort in self.asked and not self.asked[sort].done())
        return web.json_response(await asyncio.to_thread(found) | {"working": working})

    async def thumbnail(self, request: web.Request) -> web.Response:
        seeded = request.query.get("seeds") == "1"
        return _picture(await asyncio.to_thread(self.run.thumbnail, self._id(request), seeded))

    async def image(self, request: web.Request) -> web.Response:
        return _picture(await asyncio.to_thread(self.run.picture, self._id(request)))

    async def layers(self, request: web.Request) -> web.Response:
        run = self._run(request)
        image_id = self._id(request, run)
        row, index = run.row[image_id], run.index
        facts = {"id": image_id, "split": index.splits[row], "tags": run.tags(row), "marks": run.editor.marks(image_id)}
        facts |= {"width": int(index.widths[row]), "height": int(index.heights[row]), "reasons": run.reasons(image_id)}
        return web.json_response(facts | {"layers": await asyncio.to_thread(run.layers, image_id)})

    async def prediction(self, request: web.Request) -> web.Response:
        run = self._run(request)
        return web.json_response(await self._with_network(run.prediction, self._id(request, run)))

    async def live(self, request: web.Request) -> web.Response:
        image_id, began = self._id(request), time.perf_counter()
        now = Thresholds(*FOUR.validate_python([request.query.get(key) for key in KEYS]))
        growing = request.query.get("grow") == "1" and self.run.why_fixed()["grow"] is None
        if growing:
            await self._with_network(self.run.growth_probs, image_id)
        counting = not self.counted  # before the look: it may end meanwhile, and the answer would be the last
        answer = await asyncio.to_thread(self.run.live, image_id, now, growing=growing)
        answer["counting"] = counting
        return web.json_response(answer | {"ms": round(1000 * (time.perf_counter() - began), 1)})

    async def change_points(self, request: web.Request) -> web.Response:
        """Write new marks of an image, take others away -> all that it then has."""
        if not secrets.compare_digest(request.headers.get("X-Token", "").encode(), self.token.encode()):
            raise web.HTTPForbidden(text="wrong token; open the address that `dsrg inspect --edit` printed")
        image_id, editor = self._id(request), self.run.editor
        if not self.run.is_training(image_id):
            raise web.HTTPBadRequest(text="evaluation images are not learned from")
        changes = Changes.model_validate_json(await request.text()).model_dump(mode="json", by_alias=True)
        await asyncio.to_thread(editor.change, image_id, **changes)
        return web.json_response({"marks": editor.marks(image_id)})

    def _run(self, request: web.Request) -> Run:
        """The run that a request asks about: the other run's with ?run=other, if there is one."""
        return self.other if self.other and request.query.get("run") == "other" else self.run

    def _id(self, request: web.Request, run: Run | None = None) -> str:
        image_id = request.match_info["id"]
        if image_id not in (run or self.run).row:
            raise web.HTTPNotFound(text="no such image")
        return image_id

    async def _with_network(self, work: Callable, *arguments: object) -> object:
        return await asyncio.get_running_loop().run_in_executor(self.networks, work, *arguments)

    def _find_out(self, sort: str) -> None:
        """Go through all images beside, one by one; what a person asks for comes between."""
        run = self.run
        ids, work = (run.to_score(), run.score) if sort == "iou" else ([*run.seeded], run.click_value)

        async def go() -> None:
            for image_id in ids:
                with contextlib.suppress(InputError):  # a broken file is reported where it is looked at
                    await self._with_network(work, image_id)

        if sort not in self.asked and ids:
            self.asked[sort] = asyncio.create_task(go())

    async def beside(self, _: web.Application) -> AsyncIterator[None]:
        """Count while the server runs."""
        counting = asyncio.create_task(self._count())
        yield
        for task in (counting, *self.asked.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.networks.shutdown(cancel_futures=True)

    async def _count(self) -> None:
        with contextlib.suppress(InputError):
            for image_id in self.run.to_watch():
                await self._with_network(self.run.growth_probs, image_id)
            await asyncio.to_thread(self.run.watch)
        for image_id in await asyncio.to_thread(self.run.to_count):
            with contextlib.suppress(InputError):
                await asyncio.to_thread(self.run.count, image_id)
        self.counted = True


def _picture(data: bytes) -> web.Response:
    return web.Response(body=data, content_type="image/jpeg", headers={"Cache-Control": "private, max-age=60"})


def _bytes(values: np.ndarray) -> str:
    return b64encode(np.ascontiguousarray(values, np.uint8).tobytes()).decode()
