"""Headless Chromium, for pictures of a page and for its tests; nothing but the standard library.

    python -m tests.harness.browser --page=runs/demo/critiques.html --out=critiques.png
    python -m tests.harness.browser --page=FILE --out=FILE \\
        --run="document.querySelector('#search').focus()"

Chromium must be installed (on Debian the package chromium). It is driven by its DevTools protocol
over two pipes, so no port is opened, and starts with a profile of its own, which is deleted.
"""

import argparse
import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip

# Chromium wants the pipes to be its descriptors 3 and 4.
_START = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def executable() -> str | None:
    """The path of Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in one window. A context manager.

    Attributes:
      requests: addresses that the page asked for, in order.
      errors: exceptions and messages of the console that are errors, refusals of the policy of the
        page among them.
    """

    def __init__(self, width: int = 1400, height: int = 900, timeout: float = 60.0):
        path = executable()
        if path is None:
            raise ValueError(f"none of {', '.join(NAMES)} is installed")
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._timeout = timeout
        self._profile = tempfile.mkdtemp(prefix="browser.")
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START, str(read), str(write), path, *FLAGS,
             f"--user-data-dir={self._profile}", f"--window-size={width},{height}", "about:blank"],
            pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read)
        os.close(write)
        self._buffer, self._last, self._loaded, self._session = b"", 0, False, None
        pages = self._send("Target.getTargets")["targetInfos"]
        target = next(page["targetId"] for page in pages if page["type"] == "page")
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._send(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, address: str) -> float:
        """Loads a page; returns the seconds until its load event."""
        self._loaded, began = False, time.monotonic()
        self._send("Page.navigate", url=address)
        while not self._loaded:
            self._receive(began + self._timeout)
        return time.monotonic() - began

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise.

        Raises:
          RuntimeError: with the exception that it threw.
        """
        found = self._send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return found["result"].get("value")

    def screenshot(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self._send("Page.captureScreenshot", format="png")["data"])

    def _send(self, method: str, **params: Any) -> dict:
        self._last += 1
        message: dict = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        deadline = time.monotonic() + self._timeout
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _receive(self, deadline: float) -> dict:
        """The next message; events are noted."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._read, 1 << 20) if ready else b""
            if not data:
                raise TimeoutError(f"Chromium {'has ended' if ready else 'does not answer'}")
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(raw)
        name, params = message.get("method"), message.get("params", {})
        if name == "Page.loadEventFired":
            self._loaded = True
        elif name == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif name == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif name == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        return message


def main(argv: Sequence[str] | None = None) -> None:
    """Writes a picture of a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--page", type=pathlib.Path, required=True, help="an HTML file")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the PNG file")
    parser.add_argument("--run", default="", help="JavaScript to run in the page before that")
    parser.add_argument("--size", default="1400x900", help="WIDTHxHEIGHT of the window")
    args = parser.parse_args(argv)
    if not args.page.is_file():
        parser.error(f"--page: no such file: {args.page}")
    width, height = map(int, args.size.split("x"))
    try:
        with Browser(width, height) as browser:
            browser.open(args.page.absolute().as_uri())
            if args.run:
                browser.run(args.run)
            args.out.write_bytes(browser.screenshot())
    except (ValueError, RuntimeError, TimeoutError) as error:
        sys.exit(f"error: {error}")
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
