"""A page in headless Chromium, spoken to over two pipes (Chrome DevTools Protocol): looks at what is rendered, without a driver."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe"),
)


class Browser:
    """`with Browser() as browser: browser.open(path)`. `complaints` collects console errors, exceptions and blocked requests."""

    def __init__(self, timeout: float = 300.0) -> None:
        assert CHROMIUM, "chromium is not installed"
        self.timeout, self.number, self.complaints, self.buffer, self.events = timeout, 0, [], b"", []  # type: ignore[var-annotated]
        self.profile = tempfile.mkdtemp()
        read_end, self.out = os.pipe()
        self.into, write_end = os.pipe()
        # Chromium reads commands from descriptor 3 and writes answers to descriptor 4
        shell = ["bash", "-c", f'exec "$@" 3<&{read_end} 4>&{write_end}', "-", CHROMIUM, *FLAGS, f"--user-data-dir={self.profile}"]
        self.process = subprocess.Popen(shell, pass_fds=(read_end, write_end), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(read_end)
        os.close(write_end)
        self.session = ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for end in (self.into, self.out):
            os.close(end)
        shutil.rmtree(self.profile, ignore_errors=True)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params, **({"sessionId": self.session} if self.session else {})}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def receive(self) -> dict[str, Any]:
        end = time.monotonic() + self.timeout
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.into], [], [], max(0.0, end - time.monotonic()))
            assert ready, "chromium does not answer"
            self.buffer += os.read(self.into, 1 << 16)
        raw, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(raw)
        kind, params = message.get("method"), message.get("params", {})
        if kind == "Runtime.exceptionThrown" or (kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert")):
            self.complaints.append(str(params))
        if kind == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        if kind == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("data:", "file:", "about:")):
            self.complaints.append(f"request to {params['request']['url']}")
        if kind:
            self.events.append(kind)
        return message

    def open(self, path: Path, width: int = 1200, height: int = 900, scheme: str = "light", media: str = "screen") -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.send("Page.navigate", url=path.absolute().as_uri())
        while "Page.loadEventFired" not in self.events:
            self.receive()

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path, whole: bool = True) -> None:
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        extra = {"clip": clip, "captureBeyondViewport": True} if whole else {}
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png", **extra)["data"]))

    def pdf(self, path: Path) -> None:
        self.send("Emulation.setEmulatedMedia", media="print")
        path.write_bytes(base64.b64decode(self.send("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"]))
