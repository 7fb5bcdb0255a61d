"""The page of vit-serve in a real Chromium, driven through its DevTools as a user would."""

import asyncio
import base64
import contextlib
import itertools
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support import EXAMPLES, ROOT
from support.browser import chromium
from support.embedding_model import SIZE, write_embedding_model
from support.running_server import STAR, Server, running
from vit_engine.artefact import contract as contracts
from vit_engine.artefact.metadata import path_from_name, read_contract

EVIL = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
HTML = {"accept": "text/html"}


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_is_one_file_with_a_strict_policy(server: Server, path: str) -> None:
    answer = server.ask(path, headers=HTML)
    assert answer.headers["content-type"].startswith("text/html")
    page, policy = answer.body.decode(), answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?\s*(?:https?:)?//", page)
    for word in ("innerHTML", "insertAdjacent", "document.write", "localStorage", "sessionStorage",
                 "cookie", "indexedDB", "eval("):  # fmt: skip
        assert word not in page, word


class Page:
    """A tab of Chromium."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self.complaints: list[str] = []

    async def do(self, method: str, **parameters: Any) -> Any:
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=30)
            if message.get("method") == "Log.entryAdded":
                self.complaints.append(message["params"]["entry"]["text"])
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    async def value(self, expression: str) -> Any:
        found = await self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not await self.value(expression):
            if time.monotonic() > end:
                text = await self.value("document.body.innerText")
                raise AssertionError(f"{expression} is never true: {text[-500:]}")
            await asyncio.sleep(0.05)

    async def choose(self, *paths: Path) -> None:
        root = (await self.do("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.do("DOM.querySelector", nodeId=root, selector="#files"))["nodeId"]
        await self.do("DOM.setFileInputFiles", nodeId=node, files=[str(p) for p in paths])

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.do("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    async def count(self, selector: str) -> int:
        return int(await self.value(f"document.querySelectorAll({selector!r}).length"))


@contextlib.asynccontextmanager
async def opened(url: str, profile: Path, seen: str) -> AsyncIterator[Page]:
    aiohttp = pytest.importorskip("aiohttp")
    line = chromium(profile, "--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank")
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            port_file = profile / "DevToolsActivePort"
            for _ in range(600):
                if port_file.exists() and len(port_file.read_text().splitlines()) == 2:
                    break
                await asyncio.sleep(0.05)
            port = port_file.read_text().splitlines()[0]
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    (tab,) = [t for t in await answer.json() if t["type"] == "page"]
                async with session.ws_connect(
                    tab["webSocketDebuggerUrl"], max_msg_size=0
                ) as socket:
                    page = Page(socket)
                    for domain in ("Page", "DOM", "Log", "Runtime"):
                        await page.do(f"{domain}.enable")
                    await page.do("Page.navigate", url=url)
                    await page.until(f"document.readyState === 'complete' && {seen}")
                    yield page
        finally:
            browser.terminate()
            browser.wait(20)


def drive(
    url: str,
    profile: Path,
    work: Callable[[Page], Awaitable[None]],
    seen: str = "models.length > 0",
) -> None:
    """Open the page, wait for what is to be seen of it, and work with it."""

    async def main() -> None:
        async with opened(url, profile, seen) as page:
            await work(page)

    asyncio.run(main())


def test_choose_drop_paste_error_and_identity(server: Server, tmp_path: Path) -> None:
    bad = tmp_path / "bad<b>.jpg"
    bad.write_bytes(b"no image")

    async def work(page: Page) -> None:
        shown = await page.value("document.querySelector('header').innerText")
        identity = read_contract(path_from_name("demo")).identity
        assert identity.weights_sha256 in shown
        assert "agreement 100.0%" in shown and "on 19 images, against transformers" in shown
        assert await page.value("$('facts').innerText.split('\\n').length") == 10
        assert not re.search("NaN|undefined|null|object", shown)
        assert await page.value("$('curl').textContent") == (
            f"curl --data-binary @image.jpg '{server.url}/v1/classify'"
        )
        # The keyboard reaches the files first, and their label shows that it has.
        await page.press("Tab")
        assert await page.value("document.activeElement.id") == "files"
        await page.choose(EXAMPLES[0], bad)
        await page.until("labelled === 1 && failed === 1")
        assert await page.count(".card:first-child .row") == 5
        label = await page.value("document.querySelector('.row span').textContent")
        assert label == EXAMPLES[0].stem.partition("-")[0]
        times = await page.value("document.querySelector('.times').textContent")
        assert re.fullmatch(r"queue [\d.]+ ms · decode [\d.]+ ms · engine [\d.]+ ms", times)
        error = await page.value("document.querySelector('.card .bad').textContent")
        assert error.startswith("the image is not an image") and error.endswith("(format)")
        assert await page.count(".name b") == 0  # the name of the file is text
        drag = {"items": [], "files": [str(EXAMPLES[1])], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            await page.do("Input.dispatchDragEvent", type=kind, x=100, y=300, data=drag)
        await page.until("labelled === 2")
        star = base64.b64encode(STAR).decode()
        await page.value(f"""{{
            const bytes = Uint8Array.from(atob({star!r}), c => c.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "", {{ type: "image/png" }}));
            const paste = {{ clipboardData: data, bubbles: true }};
            document.dispatchEvent(new ClipboardEvent("paste", paste));
        }}""")
        await page.until("labelled === 3")
        last = "document.querySelector('.card:last-child .row span').textContent"
        assert await page.value(last) == "star"
        assert await page.value("document.querySelector('.card img').naturalWidth") > 0
        for width in (360, 1400):  # a phone's, a desktop's: nothing sticks out
            await page.do("Emulation.setDeviceMetricsOverride", width=width, height=700,
                          deviceScaleFactor=1, mobile=width < 800)  # fmt: skip
            wide = await page.value("document.documentElement.scrollWidth")
            assert wide <= width
        paper = "getComputedStyle(document.body).backgroundColor"
        seen = set()
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            await page.do("Emulation.setEmulatedMedia", features=features)
            seen.add(await page.value(paper))
        assert len(seen) == 2
        await page.value("$('clear').click()")
        assert await page.count(".card") == 0
        assert any("422" in complaint for complaint in page.complaints)  # Chromium's own words
        assert not [c for c in page.complaints if "Content Security Policy" in c]

    drive(server.url, tmp_path / "profile", work)


@pytest.mark.slow
def test_words_of_other_kinds_of_output(tmp_path: Path) -> None:
    """Sigmoid scores each by itself, the values of a regression as they are, vectors by cosines."""
    import onnx

    for score in ("sigmoid", "none"):
        model = onnx.load(path_from_name("demo"))
        contract = read_contract(path_from_name("demo"))
        assert isinstance(contract.output, contracts.Output)
        output = replace(contract.output, score=score)
        changed = replace(contract, output=output, parity=None, content_sha256=None)
        for entry in model.metadata_props:
            if entry.key == contracts.KEY:
                entry.value = changed.dumps()
        onnx.save(model, tmp_path / f"{score}.onnx")
    write_embedding_model(tmp_path / "vectors.onnx")
    images = [EXAMPLES[0], EXAMPLES[0], EXAMPLES[-1]]

    async def work(page: Page) -> None:
        for number, (name, fact, unit) in enumerate(
            [
                ("sigmoid", "16 labels", r"\d+\.\d%"),
                ("none", "16 labels", r"-?\d+\.\d+"),
                ("vectors", f"a vector of {SIZE} numbers", r"cosine -?[01]\.\d{3}"),
            ]
        ):
            await page.value(f"$('model').value = '{name}'; describe(); $('clear').click()")
            shown = await page.value("document.querySelector('header').innerText")
            assert fact in shown and "not verified" in shown, number
            await page.choose(*images)
            await page.until("labelled === 3 && document.querySelectorAll('.row').length > 5")
            text = "[...document.querySelectorAll('.row span:last-child')].map(e => e.textContent)"
            numbers = await page.value(text)
            assert all(re.fullmatch(unit, found) for found in numbers), numbers
            assert not re.search("NaN|undefined", await page.value("document.body.innerText"))
        assert "cosine 1.000" in numbers
        assert await page.value("document.querySelector('.row span').textContent") == images[0].name

    names = ("sigmoid", "none", "vectors")
    with running(*[tmp_path / f"{name}.onnx" for name in names]) as server:
        drive(server.url, tmp_path / "profile", work)


@pytest.mark.slow
def test_100_images_and_a_server_that_is_busy(tmp_path: Path) -> None:
    paths = []
    for number in range(100):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(EXAMPLES[number % len(EXAMPLES)].read_bytes())
        paths.append(path)

    async def work(page: Page) -> None:
        await page.choose(*paths)
        await page.until("labelled === 100", 120)
        assert await page.count(".card .row") == 500
        assert (await page.value("$('count').textContent")) == "100 labelled, 0 failed"
        first = await page.value("[...document.querySelectorAll('.card')].map(c => "
                                 "c.querySelector('.row span').textContent)")  # fmt: skip
        names = [path.stem.partition("-")[0] for path in EXAMPLES]
        assert first == [names[number % len(names)] for number in range(100)]

    with running("demo", "--max-images", "2") as server:  # refuses some of 4 at once
        drive(server.url, tmp_path / "profile", work)
        assert server.metric("vit_refusals_total", reason="busy") > 0


def test_labels_with_markup_stay_text_and_a_key_is_asked_for(tmp_path: Path) -> None:
    import onnx

    model = onnx.load(path_from_name("demo"))
    contract = read_contract(path_from_name("demo"))
    labels = (EVIL, *contract.output.labels[1:])
    identity = replace(contract.identity, model=EVIL)
    output = replace(contract.output, labels=labels)
    changed = replace(contract, identity=identity, output=output, content_sha256=None)
    for entry in model.metadata_props:
        if entry.key == contracts.KEY:
            entry.value = changed.dumps()
    onnx.save(model, tmp_path / "evil.onnx")
    (tmp_path / "keys").write_text("secret")

    async def work(page: Page) -> None:
        await page.value("$('key').focus()")
        await page.value("$('key').value = 'secret'")
        await page.press("Enter")
        await page.until("models.length === 1")
        assert await page.value("$('title').textContent") == EVIL
        assert "Authorization: Bearer KEY" in await page.value("$('curl').textContent")
        await page.choose(ROOT / "examples/circle-01.jpg")
        await page.until("labelled === 1")
        assert await page.value("document.querySelector('.row span').textContent") == EVIL
        assert await page.count(".card b, h1 b, .card img[src=x]") == 0
        assert await page.value("document.title") == "vit-serve"

    with running(tmp_path / "evil.onnx", "--api-key-file", tmp_path / "keys") as server:
        assert json.loads(server.ask("/", STAR).body)["error_code"] == "key"
        drive(server.url, tmp_path / "profile", work, seen="!$('ask').hidden")


def test_the_page_of_what_can_be_asked(server: Server, tmp_path: Path) -> None:
    described = server.ask("/openapi.json").json

    async def work(page: Page) -> None:
        shown = await page.value("document.body.innerText")
        for path in described["paths"]:
            assert path in shown
        assert "Labels of an image, or rows of several" in shown
        assert not page.complaints

    drive(f"{server.url}/docs", tmp_path, work, "document.querySelectorAll('details').length > 20")
