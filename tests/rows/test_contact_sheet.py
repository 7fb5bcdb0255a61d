"""The contact sheet: bounded, self-contained, harmless, and alive in a real browser."""

import json
import re

import numpy as np
import pytest

from support import EXAMPLES, ROOT
from support.browser import document
from support.embedding_model import write_embedding_model
from vit_engine.artefact import metadata
from vit_engine.image_model import LabelledBatch
from vit_engine.outputs.prediction import Prediction, Score
from vit_engine.rows.contact_sheet import MAX_IMAGES, MAX_OTHERS, ContactSheet


@pytest.fixture(scope="module")
def contract():
    return metadata.read_contract(metadata.path_from_name("demo"))


def data_of(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


def labelled(paths, *, score=0.9, label="star") -> LabelledBatch:
    pixels = np.random.default_rng(0).integers(0, 256, (len(paths), 64, 64, 3), np.uint8)
    return LabelledBatch([Prediction(p, (Score(label, 3, score),)) for p in paths], [*pixels])


def test_a_large_run_is_sampled_and_says_so(contract, tmp_path):
    sheet = ContactSheet(contract, before=40)
    for i in range(500):
        sheet.add(labelled([f"{i}-{j}.png" for j in range(8)]))
    sheet.write(tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    data = data_of(page)
    assert (data["labelled"], len(data["images"]), data["before"]) == (4000, MAX_IMAGES, 40)
    orders = [image["order"] for image in data["images"]]
    assert orders == sorted(orders) and len(set(orders)) == MAX_IMAGES
    assert 1500 < np.mean(orders) < 2500
    assert len(page) < 8 * 2**20


def test_bad_images_are_listed_and_keep_thumbnails_in_step(contract, tmp_path):
    batch = labelled(["a.png", "b.png", "c.png"])
    predictions = [
        batch.predictions[0],
        Prediction("bad.png", error="is empty", error_code="a code that nobody has heard of"),
        Prediction("nan.png", error="the model gave NaN or Inf", error_code="nonfinite"),
        batch.predictions[2],
    ]
    black = np.zeros((64, 64, 3), np.uint8)
    white = np.full_like(black, 255)
    sheet = ContactSheet(contract)
    sheet.add(LabelledBatch(predictions, [black, None, black, white]))
    sheet.write(tmp_path / "sheet.html")
    data = data_of((tmp_path / "sheet.html").read_text())
    assert [e["code"] for e in data["errors"]] == ["a code that nobody has heard of", "nonfinite"]
    first, last = data["images"]
    assert first["image"] != last["image"]
    sheet = ContactSheet(contract)
    sheet.add(LabelledBatch([predictions[0]], [white]))
    sheet.write(tmp_path / "white.html")
    (only,) = data_of((tmp_path / "white.html").read_text())["images"]
    assert only["image"] == last["image"]


def test_the_page_asks_the_network_for_nothing(contract, tmp_path):
    ContactSheet(contract).write(tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?\s*(?:https?:)?//", page)
    assert "default-src 'none'" in page


@pytest.fixture
def browser(tmp_path):
    """Load a page in headless Chromium and return the document that its script made."""
    return lambda page: document(page, tmp_path / "profile", "--virtual-time-budget=3000")


@pytest.mark.slow
def test_vectors_are_shown_with_their_nearest_others(browser, run_command, tmp_path):
    """A real run's page: each image's others are those of an exact search, and can be followed."""
    write_embedding_model(tmp_path / "clip.onnx")
    line = ["-m", tmp_path / "clip.onnx", "--provider", "cpu", ROOT / "examples"]
    out = ["-o", tmp_path / "v.npy", "--html", tmp_path / "sheet.html"]
    assert run_command("vit-infer", *line, *out).returncode == 0
    vectors = np.load(tmp_path / "v.npy")
    cosines = vectors @ vectors.T - 2 * np.eye(len(vectors))
    images = data_of((tmp_path / "sheet.html").read_text())["images"]
    for image, row in zip(images, cosines, strict=True):
        assert [j for *_, j in image["topk"]] == np.argsort(-row)[:MAX_OTHERS].tolist()
        for path, cosine, j in image["topk"]:
            assert path == images[j]["path"] and cosine == pytest.approx(row[j], abs=1e-4)
    script = """<script>
    const first = () => document.querySelector("#grid article .name").title;
    $("sort").value = "down"; show(); const nearest = first();
    document.querySelector("#grid article .row").click();
    document.body.append(element("pre", "", JSON.stringify([nearest, first(), $("count").innerText,
      document.querySelectorAll("#grid article img.near").length, $("label").hidden])));
    </script></body>"""
    driven = tmp_path / "driven.html"
    driven.write_text((tmp_path / "sheet.html").read_text().replace("</body>", script))
    (text,) = re.findall(r'<pre class="">(.*?)</pre>|<pre>(.*?)</pre>', browser(driven))
    nearest, followed, count, others, hidden = json.loads("".join(text))
    assert nearest == images[cosines.max(1).argmax()]["path"] and hidden
    assert followed == next(i for i in images if i["path"] == nearest)["topk"][0][0]
    assert (count, others) == ("1 shown", MAX_OTHERS)


def test_hostile_names_and_labels_stay_text(browser, contract, tmp_path):
    evil = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>.png"
    sheet = ContactSheet(contract)
    batch = labelled([evil, "caf\udce9.png", "\u202egnp.exe"], label="<b onclick='x'>bold</b>")
    errors = [Prediction(evil, error=evil, error_code="format")]
    sheet.add(LabelledBatch([*batch.predictions, *errors], [*batch.pixels, None]))
    sheet.write(tmp_path / "sheet.html")
    shown_page = browser(tmp_path / "sheet.html")
    shown = shown_page[shown_page.index("<main") : shown_page.index("</main>")]
    assert "<title>vit-infer contact sheet</title>" in shown_page
    assert shown.count("<article") == 3 and shown.count("<img") == 3
    assert "<script" not in shown and "<b onclick" not in shown
    assert "caf\\xe9.png" in shown


def test_the_page_filters_and_sorts(browser, run_command, tmp_path):
    """A real run's page, driven as a user would by a script put at its end."""
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    out = tmp_path / "sheet.html"
    line = ["-m", "demo", "--provider", "cpu", ROOT / "examples", bad, "--html", out]
    assert run_command("vit-infer", *line).returncode == 3
    page = out.read_text()
    script = """<script>
    const seen = [], labels = () => cards.length && [...document.querySelectorAll("#grid article")]
      .map(e => e.querySelector(".row span").textContent);
    const set = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("input")); };
    seen.push(labels());
    set("sort", "up"); seen.push(labels()); set("sort", "down"); seen.push(labels());
    set("sort", "label"); seen.push(labels());
    set("label", "star"); seen.push(labels()); set("label", "");
    set("text", "SPIRAL-01"); seen.push(labels()); set("text", "");
    set("least", "1"); seen.push(labels()); set("least", "0");
    const images = [...document.images];
    images.forEach(i => i.loading = "eager");
    addEventListener("load", () => {  // which eager images hold back
      const widths = images.map(i => i.naturalWidth);
      const result = { seen, widths, errors: $("errors").innerText };
      const e = document.createElement("pre"); e.id = "result";
      e.textContent = JSON.stringify(result); document.body.append(e);
    });
    </script></body>"""
    driven = tmp_path / "driven.html"
    driven.write_text(page.replace("</body>", script))
    shown_page = browser(driven)
    (text,) = re.findall(r'<pre id="result">(.*?)</pre>', shown_page, re.S)
    result = json.loads(text.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    names = [path.stem.partition("-")[0] for path in EXAMPLES]
    given, up, down, by_label, star, spiral, minimum = result["seen"]
    assert given == names
    assert up == down[::-1] and sorted(up) == names
    assert by_label == sorted(names)
    assert star == ["star"] and "spiral" in spiral and len(minimum) < len(names)
    assert all(width > 0 for width in result["widths"])
    assert "1 could not be labelled" in result["errors"]
