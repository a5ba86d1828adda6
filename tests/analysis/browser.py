"""Headless Chromium for tests, driven through chromedriver's HTTP protocol with the standard library alone."""

import base64
import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Page:
    """One tab: opens files, runs JavaScript, tells what was logged and requested."""

    def __init__(self, session: str) -> None:
        self.session = session

    def call(self, path: str, body: dict[str, Any]) -> Any:
        return _post(f"{self.session}/{path}", body)

    def cdp(self, command: str, **params: Any) -> Any:
        return self.call("goog/cdp/execute", {"cmd": command, "params": params})

    def open(self, path: pathlib.Path, width: int, dark: bool = False) -> None:
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[scheme])
        self.call("url", {"url": path.as_uri()})

    def run(self, script: str) -> Any:
        return self.call("execute/sync", {"script": script, "args": []})

    def logged(self) -> list[dict[str, Any]]:
        return self.call("se/log", {"type": "browser"})

    def requested(self) -> list[str]:
        events = [json.loads(entry["message"])["message"] for entry in self.call("se/log", {"type": "performance"})]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def screenshot(self, path: pathlib.Path) -> None:
        """The whole page, however long."""
        size = self.run("const e = document.documentElement; return [e.clientWidth, e.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        shot = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))


def _post(url: str, body: dict[str, Any], method: str = "POST") -> Any:
    data = None if method != "POST" else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["value"]


@contextlib.contextmanager
def browser(profile: pathlib.Path) -> Iterator[Page]:
    """A tab of a fresh Chromium. Skips the test where Chromium or its driver is not installed."""
    driver = shutil.which("chromedriver")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not driver or not chromium:
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    session = None
    try:
        options = {"binary": chromium, "args": [*ARGUMENTS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        for attempt in range(100):
            try:
                answer = _post(f"http://127.0.0.1:{port}/session", {"capabilities": {"alwaysMatch": wanted}})
                break
            except urllib.error.HTTPError as error:
                raise RuntimeError(error.read().decode()) from error
            except urllib.error.URLError:
                if attempt == 99:
                    raise
                time.sleep(0.1)
        session = f"http://127.0.0.1:{port}/session/{answer['sessionId']}"
        yield Page(session)
    finally:
        if session:
            with contextlib.suppress(OSError):
                _post(session, {}, method="DELETE")
        process.terminate()
        process.wait(10)
