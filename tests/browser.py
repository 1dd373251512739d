"""Headless Chromium by its DevTools protocol over two pipes: enough to open a page and ask it questions."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe")
SECONDS = 60.0


class Page:
    """One page. `events` holds what the browser told unasked: (method, params)."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._buffer, self._count, self._session = send, receive, b"", 0, ""
        self.events: list[tuple[str, dict[str, Any]]] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to one command. Raises RuntimeError where it is refused, TimeoutError where none comes."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._count:
            self.events.append((answer.get("method", ""), answer.get("params", {})))
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            if not select.select([self._receive], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            if not (part := os.read(self._receive, 1 << 16)):
                raise RuntimeError("the browser went away")
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")

    def open(self, path: Path, width: int, scheme: str = "light") -> None:
        """Loads a file in a window of `width` CSS pixels, in the "light" or the "dark"."""
        self.visit(path.resolve().as_uri(), width, scheme)

    def visit(self, address: str, width: int, scheme: str = "light") -> None:
        """The same for an address."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=address)
        until = time.monotonic() + SECONDS
        while self.ask("document.readyState") != "complete":
            if time.monotonic() > until:
                raise TimeoutError(f"{address} does not load")
            time.sleep(0.05)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["text"])
        return found["result"].get("value")

    def complaints(self) -> list[str]:
        """Errors and warnings of the console since the page was opened."""
        self.ask("0")  # events that came with the answers so far
        return [json.dumps(params) for method, params in self.events
                if method == "Runtime.exceptionThrown" or method == "Log.entryAdded"
                or (method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"))]

    def requested(self) -> list[str]:
        """What the page asked the network for."""
        self.ask("0")
        return [params["request"]["url"] for method, params in self.events if method == "Network.requestWillBeSent"]


@contextmanager
def browser() -> Iterator[Page]:
    """A page of a browser that has a profile of its own and ends with the block."""
    assert CHROMIUM is not None
    (to_read, to_send), (to_receive, to_write) = os.pipe(), os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, to_write)]  # out of the way of 3 and 4

    def place() -> None:
        for end, wanted in zip(ends, (3, 4)):  # the protocol reads 3 and writes 4
            os.dup2(end, wanted)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        run = subprocess.Popen([CHROMIUM, *FLAGS, f"--user-data-dir={home}", "about:blank"], preexec_fn=place,
                               pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in (to_read, to_write, *ends):
            os.close(end)
        try:
            page = Page(to_send, to_receive)
            page.attach()
            yield page
        finally:
            os.close(to_send)
            os.close(to_receive)
            run.terminate()
            try:
                run.wait(10)
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
