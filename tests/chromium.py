"""A headless Chromium under a test's control, by the DevTools protocol over a WebSocket: nothing to install for it."""

import asyncio
import itertools
import json
import shutil
import subprocess
import time
from base64 import b64decode
from collections.abc import Coroutine
from pathlib import Path

import aiohttp

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 20  # seconds until something that does not happen is a failure
OPTIONS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--hide-scrollbars", "--force-color-profile=srgb", "--mute-audio"),
]
KEY_CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27, " ": 32}


class Chromium:
    """One tab. `errors`: what its console complained of; `requests`: every address it asked for."""

    def __init__(self, profile: Path) -> None:
        self.process = subprocess.Popen(
            [PROGRAM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.loop = asyncio.new_event_loop()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future] = {}
        self._reader: asyncio.Task | None = None
        try:
            self._run(self._connect(profile / "DevToolsActivePort"))
        except BaseException:
            self.close()
            raise

    def _run(self, work: Coroutine) -> object:
        return self.loop.run_until_complete(asyncio.wait_for(work, PATIENCE))

    async def _connect(self, port_file: Path) -> None:
        while not port_file.exists() or not port_file.read_text().strip():
            await asyncio.sleep(0.05)
        port = port_file.read_text().split()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as response:
            (tab,) = [target for target in await response.json() if target["type"] == "page"]
        self._socket = await self._session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)
        self._reader = self.loop.create_task(self._read())
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._send(f"{domain}.enable", {})

    async def _read(self) -> None:
        async for message in self._socket:
            event = json.loads(message.data)
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
            else:
                self._note(event["method"], event["params"])

    def _note(self, method: str, params: dict) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def _send(self, method: str, params: dict) -> dict:
        number = next(self._numbers)
        future = self._answers[number] = self.loop.create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        answer = await future
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def send(self, method: str, **params: object) -> dict:
        """A command of the DevTools protocol -> its result."""
        return self._run(self._send(method, params))

    def run(self, script: str) -> object:
        """The value of an expression of JavaScript in the page, promises waited for."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']['exception'].get('description')}")
        return result["result"].get("value")

    def wait(self, condition: str) -> object:
        """Wait until an expression is true -> its value."""
        end = time.monotonic() + PATIENCE
        while not (value := self.run(condition)):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {condition}; the console said {self.errors}")
            self.loop.run_until_complete(asyncio.sleep(0.03))
        return value

    def size(self, width: int, height: int, *, mobile: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)

    def press(self, key: str) -> None:
        """A key as a person presses it, to whatever has the focus."""
        code = KEY_CODES.get(key, ord(key[0].upper()))
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            event = {"type": kind, "key": key, "windowsVirtualKeyCode": code} | (text if kind == "keyDown" else {})
            self.send("Input.dispatchKeyEvent", **event)

    def mouse(self, kind: str, x: float, y: float) -> None:
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def click(self, selector: str) -> None:
        """A click of the mouse in the middle of an element, brought into view."""
        x, y = self.middle(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)

    def middle(self, selector: str) -> tuple[float, float]:
        find = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{find}.scrollIntoView({{block: 'nearest'}})")
        box = self.run(f"{find}.getBoundingClientRect().toJSON()")
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def screenshot(self, path: Path) -> None:
        path.write_bytes(b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self.loop.run_until_complete(self._session.close())
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.loop.close()
