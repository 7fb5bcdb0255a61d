"""The comparison's report: numbers, refusals, Markdown, and the page in a real browser."""

import copy
import html
import json
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import compare
import readme_table
from comparison import stored_result
from comparison.report import page as report
from comparison.report import plots
from comparison.report import sections as tables
from comparison.report.front import front
from comparison.report.page import headline, page
from comparison.report.rows import Spread, disturbances, paired_speedup, rows_from_result
from comparison.report.sections import sections
from comparison.report.table import DASH, MARK, MARK_WORDS
from support.browser import document


def row(scale: float, compute: str = "fp32", **more: Any) -> dict[str, Any]:
    """A contender whose run of one image takes `scale` times 0.1 s and drifts by the round."""
    drift = (1.0, 1.5, 2.0)
    return {
        "status": "ok",
        "reason": None,
        "load_s": 2.5,
        "about": {"precision": compute, "compute": compute, "runtime": "made up 1.0"},
        "file_bytes": 4_000_000,
        "memory_bytes": 500_000_000,
        "rounds": {
            "1": [[0.1 * scale * d] * 40 for d in drift],
            "8": [[0.8 * scale * d] for d in drift],
        },
        **more,
    }


def accuracy(top1: float, differs: int = 0) -> dict[str, Any]:
    named = {"file": "a.png", "true": "star", "baseline": "star", "here": "heart"}
    return {
        "top1": top1,
        "top5": 1.0,
        "agreement": 1 - differs / 200,
        "max_diff": 0.5 * differs,
        "mean_diff": 0.1 * differs,
        "logit_range": 20.0,
        "differs": [named] * differs,
    }


@pytest.fixture
def result() -> dict[str, Any]:
    model = {
        "name": "Test & Sons' ViT <tiny>",
        "gflop": 35.0,
        "layers": 12,
        "hidden_size": 768,
        "image_size": 224,
        "labels": 1000,
    }
    failed = row(0.001, status="failed", reason="ArithmeticError: NaN in <b>the logits</b>")
    rows = {
        "optimum": row(0.8),
        "pytorch": row(1.0),
        "ours-fp16": row(0.5),
        "ours-int8": row(0.25, "int8"),
        "openvino-bf16": row(0.125, "bf16"),
        "openvino": failed,
        "ours-cuda": {"status": "absent", "reason": "not for a CPU"},
    }
    return {
        "schema": 1,
        "made": "2026-11-23T12:00:00+00:00",
        "command": "python benchmarks/compare.py",
        "machine": {
            "cpu": "Test CPU",
            "cpu_family": "family 25 model 17",
            "cpu_features": ["avx2"],
            "cores": 2,
            "threads": 2,
            "memory_gib": 8.0,
            "gpu": None,
            "system": "Linux 6.1",
            "python": "3.11.9",
            "commit": "0123456789ab",
        },
        "plan": {"latency_rounds": 3},
        "device": "cpu",
        "notes": ["Speed is that of random weights."],
        "done": [],
        "speed": {"model": model, "rows": rows},
        "ceilings": {
            "gemm-fp32-torch": {"precision": "fp32", "gflops": 400.0},
            "gemm-fp32-ort": {"precision": "fp32", "gflops": 700.0},
            "gemm-int8-ort": {"precision": "int8", "gflops": 2800.0},
            "gemm-bf16-torch": {"precision": "bf16", "status": "failed", "reason": "no"},
        },
        "files": {
            "images": 64,
            "batch": 8,
            "source": "drawn",
            "excluded": {},
            "rows": {
                "pytorch": {"rounds": [[8.0], [16.0]], "same_labels": 1.0},
                "ours-fp16": {"rounds": [[4.0], [4.0]], "same_labels": 0.984375},
            },
        },
        "accuracy": {
            "model": model,
            "images": 200,
            "source": "photographs",
            "excluded": {"optimum": ["failed", "crashed at 'predict': SIGSEGV"]},
            "rows": {
                "pytorch": accuracy(0.81),
                "ours-fp16": accuracy(0.81),
                "ours-int8": accuracy(0.8, differs=3),
                "openvino-bf16": accuracy(0.805, differs=1),
            },
        },
    }


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without the work of drawing, for tests of what stands around the pictures."""
    monkeypatch.setattr(plots, "_picture", lambda _, __, rows, **___: "<svg></svg>" if rows else "")


undrawn = pytest.mark.usefixtures("no_pictures")


def test_rows_say_what_the_samples_say(result: dict[str, Any]) -> None:
    rows = {r.name: r for r in rows_from_result(result)}
    assert next(iter(rows)) == "pytorch", "the baseline comes first"
    ours = rows["ours-fp16"]
    assert (ours.latency(50), len(ours.samples)) == (pytest.approx(0.075), 120)
    assert ours.latency(99) == pytest.approx(0.1)
    assert ours.throughput == {1: pytest.approx(1 / 0.075), 8: pytest.approx(8 / 0.6)}
    assert ours.speedup[8].median == pytest.approx(2.0)
    assert ours.speedup[8].high == pytest.approx(2.0), "drift cancels within each round"
    # 13.3 images a second of 35 GFLOP under the better of the two fp32 ceilings, 700
    assert ours.share == pytest.approx(35 / 0.075 / 700)
    assert rows["ours-int8"].share == pytest.approx(35 / 0.0375 / 2800)
    assert rows["openvino-bf16"].share is None, "that ceiling could not be measured"
    few = replace(ours, samples=[1.0] * 9)
    assert (few.latency(50), few.latency(90)) == (1.0, None), "too few samples"
    assert (replace(ours, samples=[1.0] * 99).latency(99)) is None


def test_speedup_is_paired_by_round() -> None:
    # the machine slows down threefold midway; each pair still says twice as fast
    baseline = [[2.0, 2.2, 2.1], [6.0, 6.6, 6.3], [2.0, 2.2, 2.1]]
    contender = [[1.0, 1.1, 1.05], [3.0, 3.3, 3.15], [1.0, 1.1, 1.05]]
    assert paired_speedup(baseline, contender) == Spread(2.0, 2.0, 2.0)
    mixed = paired_speedup([[1.0]] * 4, [[1.0], [0.5], [0.25], [1.0]])
    assert (mixed.low, mixed.median, mixed.high) == (1.0, 1.5, 2.5)


def test_a_failed_row_has_no_numbers(result: dict[str, Any]) -> None:
    rows = {r.name: r for r in rows_from_result(result)}
    assert rows["openvino"].throughput == {} == rows["openvino"].speedup
    assert rows["openvino"].latency(50) is rows["openvino"].load_s is None
    *found, last = sections(result)
    assert not any("OpenVINO f32" in table.text() for table in found)
    assert last.title == "Not in the tables"
    assert ("OpenVINO f32", "failed", "ArithmeticError: NaN in <b>the logits</b>") in last.body
    assert ("vit-engine fp16, CUDA", "cannot run here", "not for a CPU") in last.body
    assert any(cells[1] == "failed, in accuracy" for cells in last.body)


def test_markdown_holds_every_table(result: dict[str, Any]) -> None:
    text = report.markdown(result)
    for table in sections(result):
        assert f"## {table.title}" in text
        assert table.markdown() in text
    assert "| vit-engine fp16 | 75.0 | 100 | 100 | 13.3 | 13.3 | 67% | 2.5 | 500 | 4.0 |" in text
    assert "2.00 (2.00\u20132.00)" in text
    assert "commit 0123456789ab" in text


def test_the_differing_images_are_listed(result: dict[str, Any]) -> None:
    table = tables.differences(result)
    (cells,) = table.body
    assert cells[:3] == ("a.png", "star", "star")
    assert cells[3].startswith("vit-engine int8: heart; ")
    assert cells[3].endswith("OpenVINO bf16: heart")


def test_who_is_dominated_is_named(result: dict[str, Any]) -> None:
    found = {
        title: (one, eight) for title, one, eight in front(result, rows_from_result(result)).body
    }
    assert found == {
        "PyTorch eager fp32": ("vit-engine fp16",) * 2,
        "vit-engine fp16": ("front",) * 2,
        "vit-engine int8": ("OpenVINO bf16",) * 2,
        "OpenVINO bf16": ("front",) * 2,
    }
    slow = result["speed"]["rows"]["openvino-bf16"]["rounds"]
    slow["1"] = [[1.0]]  # and at this batch size alone
    found = {
        title: (one, eight) for title, one, eight in front(result, rows_from_result(result)).body
    }
    assert found["vit-engine int8"] == ("front", "OpenVINO bf16")
    assert found["OpenVINO bf16"] == ("vit-engine fp16", "front")


def test_the_headline_names_who_is_ahead(result: dict[str, Any]) -> None:
    rows = rows_from_result(result)
    expected = "vit-engine int8 is 4.0 times as fast as eager PyTorch at batch 1"
    assert headline(rows) == f"{expected}; OpenVINO bf16 is ahead"
    del result["speed"]["rows"]["openvino-bf16"]
    assert headline(rows_from_result(result)) == expected


@undrawn
def test_what_went_on_while_speeds_were_taken_is_told(result: dict[str, Any]) -> None:
    row = result["speed"]["rows"]["ours-fp16"]
    row["others"] = {"1": [[-0.01, 0.2], [0.02, 0.8]], "8": [None, [0.06, 2.0]]}
    row["rounds"]["8"][2] = [0.8 * 0.5 * 2.0 / 1.2]  # its ratios to the baseline: 2, 2, 2.4
    result["speed"]["rows"]["optimum"]["rounds"]["8"] = [[0.64], [0.96], [0.64 * 2 / 1.2]]
    del result["speed"]["rows"]["ours-int8"], result["speed"]["rows"]["openvino-bf16"]
    found = disturbances(result)
    assert (found[1].others, found[8].others) == (0.01, 0.03)
    assert (found[1].spread, found[8].spread) == pytest.approx((0, 0.1))
    told = (
        "While speeds were taken, at most: others took 3.0% of the cores' time (batch 8); "
        "the quartiles of a contender's ratios lay 10.0% of their median apart (batch 8)."
    )
    assert told in report.markdown(result)
    assert told in html.unescape(page(result))
    assert MARK not in report.markdown(result)


@undrawn
@pytest.mark.parametrize("fault", ["others", "spread"])
def test_a_busy_machine_has_marks_for_a_headline(result: dict[str, Any], fault: str) -> None:
    plain = report.markdown(result)
    assert "class='card'" in page(result)
    assert "times as fast" in headline(rows_from_result(result))
    rows = result["speed"]["rows"]
    if fault == "others":
        rows["ours-fp16"]["others"] = {"1": [[0.01, 1.0]], "8": [[0.3, 5.0]]}
    else:
        rows["pytorch"]["rounds"]["8"] = [[0.8], [2.4], [0.8]]
    told = headline(rows_from_result(result))
    assert told == "vit-engine beside its peers, on a machine too busy to compare speeds"
    title = report.markdown(result).splitlines()[0]
    assert title.endswith(", on a machine too busy to compare speeds")
    text = page(result)
    assert told in text
    assert "class='card'" not in text, "a ratio without a mark"
    table = {cells[0]: cells[1:] for cells in tables.speedup(rows_from_result(result)).body}
    at_one, at_eight = table["vit-engine fp16"]
    assert at_one == "2.00 (2.00\u20132.00)", "batch 1 was timed in quiet"
    assert re.fullmatch(rf"\d\.\d\d{MARK} \(.*\)", at_eight)
    assert MARK in tables.at_batch(result, 8).text()
    assert all(MARK in cells[2] for cells in tables.files(result).body)
    for shown in (report.markdown(result), html.unescape(text)):
        assert f"those with {MARK}, at batch 8." in shown
        assert f"{MARK}: {MARK_WORDS}" in shown
    assert MARK not in plain


@undrawn
def test_what_was_left_out_by_choice_could_run_here(result: dict[str, Any]) -> None:
    result["speed"]["rows"]["ours-int8"] = {"status": "skipped", "reason": "left out of --quick"}
    result["accuracy"]["excluded"]["optimum"] = ["skipped", "no time"]
    table = tables.excluded(result, rows_from_result(result))
    told = {cells[0]: cells[1] for cells in table.body}
    assert told["vit-engine int8"] == "left out"
    assert told["vit-engine fp16, CUDA"] == "cannot run here"
    assert told["Optimum ONNX Runtime fp32"] == "left out, in accuracy"
    assert "| vit-engine int8 | left out | left out of --quick |" in (report.markdown(result))
    assert "<td>left out</td><td>left out of --quick</td>" in page(result)


def test_rows_of_a_later_sitting_keep_their_own_baseline(result: dict[str, Any]) -> None:
    later = copy.deepcopy(result)  # on a machine that has become three times slower
    later["speed"]["rows"] = {"pytorch": row(3.0), "ours-int8": row(0.6, "int8")}
    later["files"]["rows"] = {
        "pytorch": {"rounds": [[24.0], [24.0]], "images": 64, "same_labels": 1.0},
        "ours-int8": {"rounds": [[8.0], [6.0]], "images": 32, "same_labels": 1.0},
    }
    later["accuracy"]["rows"] = {"pytorch": accuracy(0.5), "ours-int8": accuracy(0.79, differs=9)}
    later["accuracy"]["excluded"] = {}
    found = stored_result.merged(result, later)
    rows = {r.name: r for r in rows_from_result(found)}
    assert rows["ours-int8"].speedup[8].median == pytest.approx(5.0)
    assert rows["ours-fp16"].speedup[8].median == pytest.approx(2.0)
    cells = {c[0]: c for c in tables.files(found).body}
    assert cells["vit-engine int8"][1:3] == ("4.57", "3.50 (3.25\u20133.75)")
    assert found["accuracy"]["rows"]["pytorch"]["top1"] == 0.81
    assert found["accuracy"]["rows"]["ours-int8"]["top1"] == 0.79
    assert "ours-int8: measured later" in found["notes"][-1]
    for part in ("files", "accuracy"):  # not every result has them
        for sitting in (result, later):
            del sitting[part]
        assert set(stored_result.merged(result, later)) == set(result)


def test_files_to_labels_beside_what_its_parts_allow(result: dict[str, Any]) -> None:
    assert tables.files(result).head[-1] == "same label", "a result of before that was measured"
    files = result["files"]["rows"]
    files["ours-fp16"] |= {"decode_images_s": 48.0, "model_images_s": 24.0}
    shared = {cells[0]: cells for cells in tables.files(result).body}
    assert shared["vit-engine fp16"][4:] == ("48.0", "24.0", "100%"), "64 / 4 = 1 / (1/48 + 1/24)"
    assert shared["PyTorch eager fp32"][4:] == (DASH,) * 3
    assert "on the same cores" in report.markdown(result)
    apart = {cells[0]: cells for cells in tables.files(result | {"device": "cuda"}).body}
    assert apart["vit-engine fp16"][6] == "67%", "of the slower part: the GPU leaves the cores"


@undrawn
def test_vectors_have_cosines_in_place_of_labels(result: dict[str, Any]) -> None:
    for part in ("speed", "accuracy"):
        result[part]["model"] = result[part]["model"] | {"pooling": "cls", "vector_size": 64}
    near = {"min_cosine": 0.9999912, "mean_cosine": 0.9999988, "recall": 0.975}
    result["accuracy"]["rows"] = {"ours-fp16": near}
    result["files"]["rows"]["ours-fp16"] = {"rounds": [[4.0], [4.0]], "min_cosine": 0.875}
    text = report.markdown(result)
    assert "768, 224 pixels, vectors of 64 pooled by cls, 35.0 GFLOP" in text
    assert "| Contender | smallest cosine | mean cosine | recall of ten nearest |" in text
    assert "| vit-engine fp16 | 0.999991 | 0.999999 | 97.5% |" in text
    assert "## Files to vectors" in text
    assert tables.files(result).body[-1][-1] == "0.875000"
    assert "same label" not in text and "top-1" not in text
    assert 'id="trade"' not in page(result)


@undrawn
def test_kernels_are_told_with_their_share(result: dict[str, Any]) -> None:
    kernels = [
        {"kernel": f"gemm<{i}>", "calls": 12.0, "microseconds": 100.0 - i} for i in range(20)
    ]
    excluded = {"ours-fp16": ["failed", "RuntimeError: no profiler"]}
    result["kernels"] = {
        "contender": "ours-cuda",
        "batches": {"64": kernels},
        "excluded": excluded,
    }
    assert len(tables.kernels(result, "64").body) == tables.KERNELS
    text = report.markdown(result)
    assert "## Where a GPU's time goes, batch 64" in text
    assert "| gemm<0> | 12 | 100 | 5.5% |" in text, "of 1,810 microseconds"
    assert "| vit-engine fp16 | failed, in kernels | RuntimeError: no profiler |" in text
    assert "gemm&lt;0&gt;" in page(result)


@undrawn
def test_an_interrupted_result_renders(result: dict[str, Any]) -> None:
    for part in ("ceilings", "files", "accuracy"):
        del result[part]
    for found in result["speed"]["rows"].values():
        found.get("rounds", {}).pop("8", None)
    result |= {"interrupted": True, "no_time_for": ["speed 256", "ceilings"]}
    for text in (report.markdown(result), page(result)):
        assert "13.3" in text
        assert "Interrupted: this is what was finished." in text
        assert "The budget left no time for speed 256, ceilings; --resume" in text
    assert '<figure id="throughput">' in page(result)
    nothing = copy.deepcopy(result)
    nothing["speed"]["rows"] = {}
    assert "vit-engine beside its peers" in page(nothing)
    assert report.markdown(nothing)


@undrawn
def test_render_writes_both_beside_the_json(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = tmp_path / "stored.json"
    stored.write_text(json.dumps(result))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["compare.py", "--render", str(stored)])
    assert compare.main() == 0
    assert stored.with_suffix(".md").read_text() == report.markdown(result)
    assert stored.with_suffix(".html").read_text() == page(result)


def test_the_page_needs_nothing_else(result: dict[str, Any]) -> None:
    text = page(result)
    # a picture refers to its own marks: href="#..." and url(#...)
    assert not re.findall(r"src\s*=|href\s*=\s*.(?!#)|url\((?!#)|@import|<script|<link", text)
    assert "<b>the logits</b>" not in text
    assert "Test &amp; Sons&#39; ViT &lt;tiny&gt;" in text


PROBE = """<script>
const seen = {figures: {}, tables: [], outside: [], overlaps: [], width: 0, resources: 0};
for (const figure of document.querySelectorAll("figure")) {
  const svg = figure.querySelector("svg"), box = svg.getBoundingClientRect();
  const names = [...svg.querySelectorAll("text")].map(t => [t, t.getBoundingClientRect()]);
  for (const [t, r] of names)
    if (r.left < box.left - 1 || r.right > box.right + 1 || r.top < box.top - 1 ||
        r.bottom > box.bottom + 1) seen.outside.push(figure.id + ": " + t.textContent);
  for (const [i, [t, r]] of names.entries())
    for (const [u, s] of names.slice(i + 1))
      if (r.left < s.right - 1 && s.left < r.right - 1 && r.top < s.bottom - 4 &&
          s.top < r.bottom - 4) seen.overlaps.push(t.textContent + " / " + u.textContent);
  seen.figures[figure.id] = [box.width, box.height, names.map(([t, _]) => t.textContent)];
}
for (const table of document.querySelectorAll("table"))
  seen.tables.push([table.getBoundingClientRect().width, table.tBodies[0].rows.length]);
seen.width = document.documentElement.scrollWidth - window.innerWidth;
seen.resources = performance.getEntriesByType("resource").length;
document.body.innerHTML = "<pre id=seen>" + JSON.stringify(seen) + "</pre>";
</script></body>"""


def in_browser(text: str, folder: Path) -> dict[str, Any]:
    """Return what a browser makes of the page: sizes of what it drew, texts that went astray."""
    (folder / "page.html").write_text(text.replace("</body>", PROBE))
    shown = document(folder / "page.html", folder / "profile", "--window-size=1280,1000")
    found = re.search(r'<pre id="seen">(.*)</pre>', shown, re.DOTALL)
    assert found, shown[:500]
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


def check_page(seen: dict[str, Any], result: dict[str, Any], tables: int) -> None:
    rows = [row for row in rows_from_result(result) if row.throughput]
    judged = result.get("accuracy", {}).get("rows", {})
    shown = {
        "throughput": [row.title for row in rows],
        "latency": [row.title for row in rows if row.samples],
        "kept": [row.title for row in rows if row.name in judged],
        "nearness": [r.title for r in rows if judged.get(r.name, {}).get("mean_diff")],
        "ceiling": [row.title for row in rows if row.share],
    }
    assert list(seen["figures"]) == [name for name, titles in shown.items() if titles]
    for name, (width, height, said) in seen["figures"].items():
        assert width > 600
        assert height > 150
        assert set(shown[name]) <= {" ".join(text.split()) for text in said}
    assert len(seen["tables"]) == tables
    assert all(width > 300 and rows >= 1 for width, rows in seen["tables"])
    assert seen["outside"] == []
    assert seen["overlaps"] == []
    assert seen["width"] <= 0, "the page scrolls sideways"
    assert seen["resources"] == 0


@pytest.mark.slow
def test_long_names_have_their_room(result: dict[str, Any], tmp_path: Path) -> None:
    rows = result["speed"]["rows"]
    for i, name in enumerate(
        ("ours-cuda-graphs", "ours-tensorrt-pipelined", "pytorch-compile-max")
    ):
        rows[name] = row(1e-4 * (1 + i), "fp16")  # as fast as numbers get
        result["accuracy"]["rows"][name] = accuracy(0.81)
    check_page(in_browser(page(result), tmp_path), result, tables=len(sections(result)))


def without_pictures(text: str) -> str:
    """Leave out what another matplotlib may draw otherwise."""
    return re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)


STORED = sorted(readme_table.RESULTS.glob("*.json"))


@undrawn
@pytest.mark.parametrize("stored", STORED, ids=lambda path: path.stem)
def test_committed_results_are_rendered_as_they_are(stored: Path) -> None:
    """After a change to the report: python benchmarks/compare.py --render benchmarks/results/X"""
    result = json.loads(stored.read_text())
    assert stored.with_suffix(".md").read_text() == report.markdown(result)
    committed = stored.with_suffix(".html").read_text()
    assert without_pictures(committed) == without_pictures(page(result))


def test_a_browser_shows_the_largest_result(tmp_path: Path) -> None:
    stored = max(STORED, key=lambda path: path.stat().st_size)
    result, committed = json.loads(stored.read_text()), stored.with_suffix(".html").read_text()
    check_page(in_browser(committed, tmp_path), result, tables=len(sections(result)))


def test_the_tables_and_the_chart_are_not_stale() -> None:
    text = readme_table.PAGE.read_text()
    assert readme_table.with_tables(text) == text, "run: make readme-table"

    def said(picture: str) -> list[str]:  # another matplotlib may place it otherwise
        return re.findall(r"<text[^>]*>(.*?)</text>", picture)

    drawn = said(readme_table.chart())
    assert said(readme_table.CHART.read_text()) == drawn, "run: make readme-table"
    assert "3.68 / 4.30" in drawn


def test_the_best_of_a_column_is_bold_unless_it_is_the_baseline() -> None:
    best = readme_table._best_in_bold
    assert best("A: times @1", "1.00", DASH, "2.50†", "2.40") == ["1.00", DASH, "**2.50†**", "2.40"]
    assert best("A: ms @1", "9.0", "1,000", "8.5", "8.5") == ["9.0", "1,000", "**8.5**", "**8.5**"]
    assert best("agrees", "100.0%", "99.0%", "100.0%") == ["100.0%", "99.0%", "100.0%"]


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(SystemExit, match=":begin -->"):
        readme_table.with_tables("# No table here\n")
