"""A headless browser, spoken to over a pipe."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-pipe", "--hide-scrollbars"),
)


class Browser:
    """One tab. What it complains about is in `complaints`, what it loads in `requests`."""

    def __init__(self, read, write):
        self._read, self._write, self._numbers = read, write, itertools.count(1)
        self._session, self._loaded = None, False
        self.complaints, self.requests = [], []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method, **params):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while (answer := self._next()).get("id") != number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self):
        content = bytearray()
        while (byte := self._read.read(1)) != b"\0":
            assert byte, "the browser ended"
            content += byte
        return json.loads(content)

    def _note(self, event):
        method, params = event.get("method"), event.get("params")
        if method in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(params)
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        self._loaded |= method == "Page.loadEventFired"

    def open(self, url, width, dark=False, media=""):
        self.send(
            "Emulation.setDeviceMetricsOverride",
            **dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 600),
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._loaded = False
        self.send("Page.navigate", url=url)
        while not self._loaded:
            self._note(self._next())

    def evaluate(self, expression):
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"]["value"]

    def screenshot(self, path):
        answer = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self, path):
        answer = self.send("Page.printToPDF", preferCSSPageSize=False)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.contextmanager
def browser(profile):
    """Starts one with an empty profile folder, and ends it."""
    (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
    shell = f'exec 3<&{in_read} 4>&{out_write}; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(in_read, out_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(in_read)
    os.close(out_write)
    with open(out_read, "rb") as read, open(in_write, "wb") as write:
        try:
            yield Browser(read, write)
        finally:
            process.terminate()
            process.wait(30)
