"""The HTML report, read back with html.parser and in a real browser."""

import base64
import io
import json
import math
import os
import subprocess
import sys
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from helpers import CHROMIUM, PREDICTED, summary, write_run
from matplotlib.scale import LinearScale, LogScale, SymmetricalLogScale
from PIL import Image

from vae_sweep import report
from vae_sweep.records import results
from vae_sweep.records.claim import Claims
from vae_sweep.reporting import figures, html, style, svg, tables

pytestmark = pytest.mark.slow

VOID = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """A page as its tags with attributes and own text, in document order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.text = text
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), []))
        if tag == "br":
            self.handle_data(" ")
        if tag not in VOID:
            self.open.append(len(self.tags) - 1)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        at = self.open.pop()
        assert self.tags[at][0] == tag, f"{tag} closes {self.tags[at][0]}"

    def handle_data(self, data):
        for at in self.open:
            self.tags[at][2].append(data)

    def find(self, tag: str, **wanted: str) -> list[tuple[dict[str, str | None], str]]:
        """(attributes, whole text) of each such tag."""
        return [
            (attributes, " ".join("".join(text).split()))
            for name, attributes, text in self.tags
            if name == tag and all(attributes.get(k) == v for k, v in wanted.items())
        ]

    def after(self, mark: str) -> "Page":
        """The first table after `mark`."""
        text = self.text[self.text.index(mark) :]
        text = text.replace('<span class="long">point</span>', "")  # of phones
        return Page(text[text.index("<table") : text.index("</table>") + 8])

    def pairs(self, name: str, value: str) -> dict[str, str]:
        """The texts of tags `name` as keys to those of tags `value`."""
        names, values = ([text for _, text in self.find(tag)] for tag in (name, value))
        return dict(zip(names, values, strict=True))

    def table(self, name: str) -> pd.DataFrame:
        """The table with that id: the text of identity cells, data-value of numbers."""
        part = self.after(f'id="{name}"')
        header = [text for _, text in part.find("th", scope="col")]
        cells = [
            attributes.get("data-value", " ".join("".join(text).split()))
            for tag, attributes, text in part.tags
            if tag == "td" or attributes.get("scope") == "row"
        ]
        rows = np.array(cells, dtype=object).reshape(-1, len(header))
        return pd.DataFrame(rows, columns=header)


def made(folder: Path) -> Page:
    """The written report, whose tags close in order."""
    path = report.write(folder)
    assert (folder / "table.csv").exists()
    assert path == folder / "report.html"
    page = Page(path.read_text())
    assert page.open == []
    assert [p.name for p in folder.glob(".*") if p.name != ".lock"] == []
    return page


def vary(run: Path, **numbers: float) -> None:
    """Changes final numbers in a run's summary.json; `val_psnr` for val/psnr."""
    content = json.loads((run / "summary.json").read_text())
    content["final"] |= {k.replace("val_", "val/"): v for k, v in numbers.items()}
    (run / "summary.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> tuple[Path, list[str]]:
    """Two points of two seeds; of the second one diverged, the other is not finished."""
    folder = tmp_path_factory.mktemp("runs") / "main"
    environment = {
        "threads": 2,
        "commit": "c0ffee",
        "command": "python -m vae_sweep.run -m",
    }
    environment["versions"] = {"torch": "2.15.0"}
    ids = [
        write_run(folder, summary(**environment)),
        write_run(folder, summary(**environment), seed=1),
        write_run(folder, summary(status="diverged", diverged_at=27), head="linear"),
        write_run(folder, None, head="linear", seed=1),
    ]
    vary(folder / ids[1], val_psnr=19.02, val_kl=14.34)
    return folder, ids


@pytest.fixture(scope="module")
def page(sweep) -> Page:
    return made(sweep[0])


def test_the_page_needs_nothing_but_itself(page):
    used = [
        value
        for _, attributes, _ in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert len(used) > 10
    assert all(str(value).startswith(("data:", "#")) for value in used)
    targets = {attributes.get("id") for _, attributes, _ in page.tags}
    assert {str(v)[1:] for v in used if str(v).startswith("#")} <= targets
    assert "@import" not in page.text
    assert "url(" not in page.text.replace("url(#", "")


def test_each_run_is_there_with_its_numbers(page, sweep):
    folder, ids = sweep
    codes = [text for _, text in page.find("code")]
    assert all(run_id in codes for run_id in ids)
    table = page.table("runs")
    assert table["head"].tolist() == ["linear", "linear", "tanh", "tanh"]  # by folder
    assert sorted(table["seed"]) == ["0", "0", "1", "1"]
    shown = dict(zip(table["head"] + table["seed"], table.to_dict("records"), strict=True))
    assert float(shown["tanh0"]["val PSNR (dB)"]) == 18.42  # summary.json's
    assert float(shown["tanh0"]["KL (nats)"]) == 12.34
    assert float(shown["tanh0"]["calibrated bits/dim"]) == 4.5678
    assert float(shown["tanh0"]["sigma (8-bit)"]) == 48.3
    rows = pd.read_csv(folder / ids[3] / "metrics.csv")  # has no summary.json
    assert float(shown["linear1"]["val PSNR (dB)"]) == rows["val/psnr"].iloc[-1] == 6.02
    assert float(shown["linear1"]["KL (nats)"]) == rows["val/kl"].iloc[-1]
    assert shown["linear1"]["pred. KL"] == ""


def test_predicted_beside_observed_and_their_difference(page):
    line = page.table("runs").query("head == 'tanh' and seed == '0'").iloc[0]
    assert float(line["pred. PSNR"]) == PREDICTED["psnr"] == 5.125
    assert float(line["pred. KL"]) == PREDICTED["kl"] == 3.25
    assert float(line["pred. units"]) == PREDICTED["active_units"] == 2
    assert float(line["PSNR diff."]) == pytest.approx(18.42 - 5.125)
    assert float(line["KL diff."]) == pytest.approx(12.34 - 3.25)
    assert float(line["units diff."]) == 1


def test_means_are_over_the_finished_seeds(page):
    table = page.table("means").set_index("head")
    assert table["seeds"].to_dict() == {"linear": "0 of 2", "tanh": "2"}
    assert float(table.loc["tanh", "val PSNR (dB)"]) == pytest.approx((18.42 + 19.02) / 2)
    assert float(table.loc["tanh", "KL (nats)"]) == pytest.approx(13.34)
    assert float(table.loc["tanh", "KL diff."]) == pytest.approx(13.34 - 3.25)
    assert table.loc["linear", "val PSNR (dB)"] == ""
    # of two values, 0.3 from their mean: half an interval is tan(0.475 pi) * 0.3
    half = math.tan(0.475 * math.pi) * 0.3
    assert any(text == f"*18.72 ±{half:.2f}" for _, text in page.find("td"))


def test_no_means_where_nothing_repeats(tmp_path):
    write_run(tmp_path, summary())
    write_run(tmp_path, summary(), head="linear")
    assert 'id="means"' not in made(tmp_path).text


def test_failed_points_with_their_last_finite_row(page):
    part = page.after("Diverged, failed or interrupted")
    names = [text for _, text in part.find("th", scope="row")]
    assert names == ["linear · seed 0", "linear · seed 1"]
    assert [text for _, text in page.find("progress")] == []
    cells = [text for _, text in part.find("td")]
    assert cells[:5] == ["diverged at step 27", "20", "–", "18.42", "12.3"]
    assert cells[5:] == ["interrupted, step 20", "20", "4.000", "6.02", "2.5"]
    texts = [text for _, text in page.find("p")]
    assert "4 runs: 2 finished, 1 diverged, 1 interrupted" in texts


def test_a_sound_sweep_has_no_failed_points(tmp_path):
    write_run(tmp_path, summary())
    assert "Diverged, failed" not in made(tmp_path).text


def test_a_report_made_while_the_sweep_trains_says_what_is_known(tmp_path):
    """As grid.run opens a run: with prediction, command and the steps that it will have."""
    write_run(tmp_path, summary())
    running = summary(status="running", total_steps=500, steps=0)
    running |= {"command": "the command", "versions": {"torch": "2.15.0"}, "final": {}}
    trains = write_run(tmp_path, running, seed=1)
    failed = summary(status="failed", reason="no memory", total_steps=500)
    write_run(tmp_path, failed, rows=[], seed=2)
    with Claims() as claims:
        claims.take(tmp_path / trains)
        page = made(tmp_path)
    assert "3 runs: 1 finished, 1 failed, 1 running" in [t for _, t in page.find("p")]
    first = next(text for _, text in page.after("Running").find("td"))
    assert first == "running, step 20 of 500"
    alarm = page.after("Diverged, failed or interrupted")
    assert "no memory" in next(text for _, text in alarm.find("td"))
    assert "the command" in page.text
    shown = [line for line in page.text.splitlines() if "18.70" in line]
    assert len(shown) >= 3  # every run's cap, the running one's too


def test_a_cap_that_is_not_known_is_a_question_mark(tmp_path):
    write_run(tmp_path, None)
    assert results.table(results.load(tmp_path))["PSNR cap (dB)"].isna().all()
    row = made(tmp_path).after("Runs").find("td")
    assert "?" in [text for _, text in row]


def test_what_differs_and_what_is_shared(page):
    differing = page.after("What differs between the runs").pairs("code", "td")
    shared = page.after("settings that all runs share").pairs("code", "td")
    assert differing == {"seed": "0 (2), 1 (2)", "head": "linear (2), tanh (2)"}
    assert shared["norm"] == "zscore"
    assert shared["model.widths"] == "[4,8]"
    assert shared["train.epochs"] == "null"


def test_what_the_runs_were_made_with(page):
    facts = page.pairs("dt", "dd")
    assert facts["hardware"] == "cpu, threads per process: 2 (2 runs) cpu (1 run)"
    assert "torch 2.15.0" in facts["versions"]
    assert "c0ffee" in facts["commit"]
    assert "python -m vae_sweep.run -m" in facts["command"]


def test_hostile_names_are_text(tmp_path):
    folder = tmp_path / "<script>alert(1)<"
    run_id = write_run(folder, summary(command="</dd><img src=x onerror=alert(2)>"))
    hostile = "\"><img src=x onerror='alert(3)'>&amp;$x_1$"
    (folder / run_id).rename(folder / hostile)
    page = made(folder)
    assert [text for _, text in page.find("h1")] == ["<script>alert(1)<"]
    assert [text for _, text in page.find("title")] == ["<script>alert(1)<: vae-sweep"]
    assert hostile in [text for _, text in page.find("code")]
    assert len(page.find("script")) == 2
    labels = page.find("script", type="application/json")[0][1]
    assert json.loads(labels) == ["zscore · tanh · β 1"]
    assert all("onerror" not in attributes for attributes, _ in page.find("img"))


@pytest.mark.parametrize("damage", ["missing", "truncated", "text"])
def test_damaged_and_missing_files_leave_gaps(tmp_path, damage):
    whole = write_run(tmp_path, summary())
    bare = write_run(tmp_path, None, rows=[], seed=1)
    picture = tmp_path / bare / "reconstructions.png"
    content = picture.read_bytes()
    picture.unlink()
    if damage != "missing":
        picture.write_bytes(content[:45] if damage == "truncated" else b"none")
    page = made(tmp_path)
    assert [text for _, text in page.find("p")].count("no reconstructions to show") == 1
    codes = [text for _, text in page.find("code")]
    assert {whole, bare} <= set(codes)
    bare_row = page.table("runs").query("seed == '1'").iloc[0]
    assert bare_row["val PSNR (dB)"] == ""


def decoded(url: str) -> np.ndarray:
    kind, content = url.split(";base64,")
    assert kind == "data:image/jpeg"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image).astype(float)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_pictures_are_those_of_the_run(tmp_path, mode, channels):
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (4, 8, channels)).repeat(8, 0).repeat(8, 1)
    tiles = smooth.astype(np.uint8).squeeze()
    if mode == "RGBA":
        tiles[..., 3] = 255
    Image.fromarray(tiles).save(tmp_path / "reconstructions.png")
    Image.fromarray(tiles[::-1]).save(tmp_path / "samples.png")
    found = html.pictures(tmp_path, None)
    rgb = tiles[..., :3] if mode == "RGBA" else tiles
    for shown, expected in (
        (found.originals, rgb[:16]),
        (found.reconstructions, rgb[16:]),
        (found.samples, rgb[::-1]),
    ):
        assert shown is not None
        url, width, height = shown
        assert (width, height) == (64, len(expected))
        assert np.abs(decoded(url) - expected).mean() < 2  # 8-bit levels


def test_a_picture_that_changed_is_read_again(tmp_path):
    for level in (10, 200):
        tiles = np.full((8, 8), level, np.uint8)
        Image.fromarray(tiles).save(tmp_path / "reconstructions.png")
        os.utime(tmp_path / "reconstructions.png", ns=(level, level))
        shown = html.pictures(tmp_path, None).reconstructions
        assert np.abs(decoded(shown[0]) - level).max() < 3


def test_originals_stand_once_above_the_runs_that_reconstructed_them(tmp_path):
    ids = [write_run(tmp_path, summary(), seed=seed) for seed in range(3)]
    other = write_run(tmp_path, summary(), data__name="cifar10")
    tiles = np.full((12, 24), 77, np.uint8)
    Image.fromarray(tiles).save(tmp_path / other / "reconstructions.png")
    Image.fromarray(tiles).save(tmp_path / ids[0] / "samples.png")
    page = made(tmp_path)
    alts = [attributes["alt"] for attributes, _ in page.find("img")]
    assert alts.count("the images that were reconstructed") == 2
    assert sum("reconstructions of the images above" in alt for alt in alts) == 4
    assert sum("decoded from the prior" in alt for alt in alts) == 1
    assert {text for _, text in page.find("h3")[-2:]} == {"mnist", "cifar10"}


def test_large_sweeps_show_one_seed_of_each_point(tmp_path):
    for seed in range(html.MANY // 2 + 1):
        for head in ("tanh", "linear"):
            write_run(tmp_path, summary(), head=head, seed=seed)
    page = made(tmp_path)
    summaries = [text for _, text in page.find("summary")]
    assert summaries.count(f"{html.MANY // 2} more seeds") == 2
    assert len(page.find("img")) == html.MANY + 2 + 1


def test_pictures_end_where_the_page_has_no_room(tmp_path, monkeypatch):
    ids = [write_run(tmp_path, summary(), seed=seed) for seed in range(3)]
    size = html.pictures(tmp_path / ids[0], None).size
    monkeypatch.setattr(html, "ROOM", size + 1)
    page = made(tmp_path)
    said = [text for _, text in page.find("p")]
    assert said.count("in the run's folder: reconstructions") == 1
    [link] = [a["href"] for a, text in page.find("a") if text == "reconstructions"]
    assert (tmp_path / unquote(link)).samefile(tmp_path / ids[2] / "reconstructions.png")
    elsewhere = report.write(tmp_path, output=tmp_path / ids[0] / "page.html")
    other = Page(elsewhere.read_text())
    [link] = [a["href"] for a, text in other.find("a") if text == "reconstructions"]
    assert (elsewhere.parent / unquote(link)).is_file()


def test_the_best_points_have_their_pictures_in_the_page(tmp_path, monkeypatch):
    ids = [write_run(tmp_path, summary(), beta__value=float(k)) for k in range(1, 4)]
    for run_id, bits in zip(ids, (5.0, 4.0, 6.0), strict=True):
        vary(tmp_path / run_id, **{"val/bits_per_dim_calibrated": bits})
    monkeypatch.setattr(html, "ROOM", 1)
    page = made(tmp_path)
    alts = [attributes["alt"] for attributes, _ in page.find("img")]
    assert [alt for alt in alts if "of the images above" in alt] == [
        "β 2: reconstructions of the images above"
    ]
    assert "pictures of 1 of the 3 runs, those of the best points first" in page.text


def test_a_page_grows_by_a_few_kilobytes_a_run(tmp_path, monkeypatch):
    """So that 2,000 runs, and ROOM for pictures, are a page that browsers take."""
    monkeypatch.setattr(html, "ROOM", 0)
    curve = "".join(f"{step},{1e3 / (step + 1)},0.1,30.5\n" for step in range(0, 2500, 25))
    rows = [f"{s},1,5,6,0.5,{s / 100},{s / 50},-9,4,7," for s in range(0, 2501, 250)]
    sizes = []
    for betas in (range(1, 11), range(11, 31)):
        for beta, seed in product(betas, (0, 1)):
            run_id = write_run(
                tmp_path, summary(), rows=rows, beta__value=float(beta), seed=seed
            )
            (tmp_path / run_id / "training.csv").write_text(f"step,loss,mse,kl\n{curve}")
        sizes.append(report.write(tmp_path).stat().st_size)
    # their curves are thinned only from some hundred runs on
    curves = 3 * len(curve.splitlines()) * len("123.45 123.45L")
    assert (sizes[1] - sizes[0]) / 40 - curves < 5_000


def drawn(folder: Path) -> list[svg.Picture]:
    loaded = results.load(folder)
    looked = style.of_points(loaded.finals)
    place = {run.run_id: i for i, run in enumerate(loaded.runs)}
    pairs = figures.of_page(loaded, looked)
    return [svg.picture(figure, axes, looked, place) for figure, axes in pairs]


def test_figures_show_each_run_once_in_one_look_per_point(sweep):
    folder, ids = sweep
    looked = style.of_points(results.load(folder).finals)
    assert looked[ids[0]] == looked[ids[1]]
    assert looked[ids[0]].hue != looked[ids[3]].hue
    assert looked[ids[0]].dashes != looked[ids[3]].dashes  # of their heads
    assert looked[ids[2]].marker == style.DIVERGED  # diverged
    assert tables.points_of(looked)[looked[ids[2]].label] == looked[ids[3]]
    shown = drawn(folder)
    assert [picture.alt.rsplit(", ", 1)[1] for picture in shown] == [
        *["4 runs"] * 4,
        *["3 runs"] * 2,  # one has no prediction yet
    ]
    assert [again.svg for again in drawn(folder)] == [p.svg for p in shown]


def inverse(axis: str):
    """What matplotlib's scales say of a coordinate, from a figure's data-x or data-y."""
    scale, *numbers = axis.split()
    linear, start, end, low, high = map(float, numbers)
    made = {
        "linear": LinearScale(None),
        "log": LogScale(None),
        "symlog": SymmetricalLogScale(None, linthresh=linear or 1),
    }[scale].get_transform()
    ends = made.transform(np.array([low, high]))
    return lambda p: made.inverted().transform(
        ends[0] + (np.asarray(p) - start) / (end - start) * (ends[1] - ends[0])
    )


def runs_of(picture: svg.Picture) -> dict[int, np.ndarray]:
    """Number of a run -> its values [n, 2], read off the figure."""
    root = ElementTree.fromstring(picture.svg.replace("xlink:", ""))
    x, y = inverse(root.attrib["data-x"]), inverse(root.attrib["data-y"])
    found = {}
    for group in root.iterfind(".//g[@class='runs']/g"):
        vertices = group.find("path").attrib["d"].removeprefix("M").split("L")
        points = np.array([vertex.split() for vertex in vertices], float)
        found[int(group.attrib["data-run"])] = np.column_stack(
            [x(points[:, 0]), y(points[:, 1])]
        )
    return found


@pytest.mark.parametrize("top", [20.0, 2e6])  # of which the second needs another scale
def test_values_can_be_read_off_a_figure(tmp_path, top):
    header = "step,loss,mse,kl\n"
    for seed, steps in enumerate((range(0, 2_000_000, 20_000), range(0, 500_000, 5_000))):
        rows = [f"{20 * k},1,5,6,0.5,{3 + k / 7},{k + seed},-9,4,7," for k in range(1, 5)]
        rows[-1] = rows[-1].replace(",4,", f",{top},", 1) if seed else rows[-1]
        run_id = write_run(tmp_path, None, rows=rows, seed=seed)
        lines = [f"{step},{5 + step % 7},0.5,{step / 1e5}" for step in steps]
        (tmp_path / run_id / "training.csv").write_text(header + "\n".join(lines) + "\n")
    loaded = results.load(tmp_path)
    shown = {picture.title: runs_of(picture) for picture in drawn(tmp_path)}
    for title, rows, column in (
        ("PSNR", loaded.curves, "val/psnr"),
        ("Rate", loaded.curves, "val/kl"),
        ("Training loss", loaded.training, "loss"),
        ("Training rate", loaded.training, "kl"),
    ):
        for i, run in enumerate(loaded.runs):
            expected = rows[rows["run_id"] == run.run_id][["step", column]].to_numpy(float)
            found = shown[title][i]
            np.testing.assert_array_equal(np.rint(found[:, 0]), expected[:, 0])
            span = np.ptp(expected[:, 1])
            near = 1e-3 * span if top < 1e6 else 1e-2 * np.abs(expected[:, 1]).max()
            np.testing.assert_allclose(found[:, 1], expected[:, 1], atol=near)


def test_long_curves_are_thinned_and_keep_both_ends(tmp_path):
    run_id = write_run(tmp_path, summary())
    steps = np.arange(0, 25 * 4000, 25)
    lines = [f"{step},{step / 7},0.5,1.0" for step in steps]
    text = "step,loss,mse,kl\n" + "\n".join(lines) + "\n"
    (tmp_path / run_id / "training.csv").write_text(text)
    [found] = [runs_of(p)[0] for p in drawn(tmp_path) if p.title == "Training loss"]
    assert len(found) == svg.MOST
    np.testing.assert_allclose(found[[0, -1], 0], steps[[0, -1]], atol=0.5)
    assert np.isin(np.rint(found[:, 0]), steps).all()


def test_a_page_says_where_data_sets_are_mixed_and_marks_the_best_of_each(tmp_path):
    numbers = {"mnist": (20.0, 5.0), "cifar10": (30.0, 4.0)}
    for data, (psnr, bits) in numbers.items():
        for head, more in (("tanh", 0.5), ("linear", 0.0)):
            for seed in (0, 1):
                run_id = write_run(
                    tmp_path, summary(), head=head, seed=seed, data__name=data
                )
                vary(tmp_path / run_id, val_psnr=psnr + more + seed)
                vary(tmp_path / run_id, val_bits_per_dim_calibrated=bits + more - seed / 10)
    page = made(tmp_path)
    warnings = [text for attributes, text in page.find("p") if "role" in attributes]
    assert len(warnings) == 1
    assert warnings[0].startswith("These runs are of 2 data sets (")
    assert warnings[0].endswith("compare numbers only within one of them.")
    best = [
        t for attributes, t in page.find("td") if " best" in attributes.get("class", "")
    ]
    shown = sorted(text.split(" ")[0].strip("*") for text in best)
    assert shown == ["21.00", "3.950", "31.00", "4.950"]


def test_several_sweeps_share_a_page(tmp_path):
    one = write_run(tmp_path / "a", summary())
    write_run(tmp_path / "a", summary(), seed=1)
    write_run(tmp_path / "b", summary())
    done = command(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (done.returncode, done.stderr) == (0, "")
    page = Page((tmp_path / "a/report.html").read_text())
    assert not (tmp_path / "b/report.html").exists()
    assert [text for _, text in page.find("h1")] == ["a + b"]
    assert next(text for _, text in page.find("strong")) == "3 runs"
    codes = [text for _, text in page.find("code")]
    assert {f"a/{one}", f"b/{one}"} <= {*codes}  # one name in both
    assert sorted(page.table("runs")["other"]) == ["sweep=a", "sweep=a", "sweep=b"]


def test_numbers_are_printed_with_their_signs():
    assert tables.decimal(-1.234, 2) == "−1.23"
    assert tables.decimal(-0.001, 2, "+") == "+0.00"
    assert tables.decimal(3.3, 1, "+") == "+3.3"
    assert tables.decimal(math.nan, 1) == "–"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "vae_sweep.report", *arguments]
    return subprocess.run(line, capture_output=True, text=True)


def test_the_command(sweep):
    folder, _ = sweep
    done = command(str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert str(folder / "report.html") in done.stdout
    assert (folder / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("mistake", ["absent", "empty", "file", "none"])
def test_mistakes_are_one_line_and_exit_code_2(tmp_path, mistake):
    folder = tmp_path / mistake
    if mistake == "empty":
        folder.mkdir()
    elif mistake == "file":
        folder.write_text("")
    done = command(*([] if mistake == "none" else [str(folder)]))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.rglob(".report*")) == []


def test_runs_that_are_left_out_are_said(tmp_path):
    write_run(tmp_path / "sweep", summary())
    torn = write_run(tmp_path / "sweep", summary(), seed=1)
    (tmp_path / "sweep" / torn / "summary.json").write_text("[]")
    done = command(str(tmp_path / "sweep"))
    assert done.returncode == 0
    assert done.stdout.startswith(f"left out 1 run: {torn} (")


def test_a_folder_in_the_place_of_the_page_is_put_aside(tmp_path):
    write_run(tmp_path / "sweep", summary())
    (tmp_path / "sweep/report.html").mkdir()
    assert command(str(tmp_path / "sweep")).returncode == 0
    assert (tmp_path / "sweep/report.html").stat().st_size > 10_000
    assert (tmp_path / "sweep/report.html.old-1").is_dir()


@pytest.mark.parametrize("link", [False, True])
def test_a_page_takes_no_folders_place(tmp_path, link):
    write_run(tmp_path / "sweep", summary())
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.png").write_bytes(b"an image")
    if link:
        (tmp_path / "link").symlink_to(tmp_path / "images")
    name = tmp_path / ("link" if link else "images")
    said = command(str(tmp_path / "sweep"), "-o", str(name))
    assert said.returncode == 2
    assert (
        said.stderr == f"error: --output {name} is a folder; name a file: --output FILE\n"
    )
    assert (name / "1.png").read_bytes() == b"an image"
    assert name.is_symlink() == link


PROBE = """
<script>
const texts = (selector) => [...document.querySelectorAll(selector)]
  .filter((cell) => cell.getClientRects().length).map((cell) => cell.textContent.trim());
const header = (board, name) => [...document.querySelectorAll(`#${board} thead th`)]
  .find((cell) => cell.textContent.replace(/\\s+/g, " ").trim() === name);
const column = (board, name) =>
  texts(`#${board} tbody tr > :nth-child(${header(board, name).cellIndex + 1})`);
const said = {};
header("runs", "KL (nats)").querySelector("button").click();
said.ascending = column("runs", "KL (nats)");
said.aria = header("runs", "KL (nats)").getAttribute("aria-sort");
header("runs", "KL (nats)").querySelector("button").click();
said.descending = column("runs", "KL (nats)");
header("runs", "pred. KL").querySelector("button").click();
said.gapsLast = column("runs", "pred. KL");
header("runs", "beta").querySelector("button").click();
said.betas = column("runs", "beta");
const select = document.querySelector("select[data-column=head]");
select.value = "linear";
select.dispatchEvent(new Event("input", {bubbles: true}));
said.filtered = column("runs", "head");
said.cards = texts(".card code").length;
said.drawn = [...document.querySelectorAll(".plot:first-child .runs > g")]
  .filter((run) => run.style.display === "").length;
said.count = document.getElementById("count").textContent;
document.querySelector("button[type=reset]").click();
setTimeout(() => {
  said.reset = column("runs", "head").length;
  document.getElementById("words").value = "tanh";
  document.getElementById("words").dispatchEvent(new Event("input", {bubbles: true}));
  said.words = column("runs", "head");
  said.means = column("means", "head");
  said.wide = texts(".asked").length;
  document.getElementById("all-columns").click();
  said.asked = texts(".asked").length;
  said.overflow = document.documentElement.scrollWidth - innerWidth;
  document.body.replaceChildren(JSON.stringify(said));
});
</script>
"""


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on PATH")
@pytest.mark.parametrize("width", [500, 1280])
def test_sorting_and_filters_in_a_browser(tmp_path, width):
    folder = tmp_path / "main"
    ids = [
        write_run(folder, summary(), beta__value=0.0625),
        write_run(folder, summary(), beta__value=0.5),
        write_run(folder, summary(), seed=1, beta__value=0.5),
        write_run(folder, None, head="linear", beta__value=16.0),  # KL 2.5 so far
    ]
    for run_id, kl in zip(ids, (123.4, 9.5, 30.0), strict=False):
        vary(folder / run_id, val_kl=kl)
    path = report.write(folder)
    path.write_text(path.read_text().replace("</body>", PROBE + "</body>"))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    flags += " --disable-background-networking --disable-component-update --disable-sync"
    done = subprocess.run(
        [
            *(str(CHROMIUM), *flags.split(), f"--user-data-dir={tmp_path / 'profile'}"),
            *("--enable-logging=stderr", f"--window-size={width},900", "--dump-dom"),
            *("--virtual-time-budget=5000", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert [line for line in done.stderr.splitlines() if ":CONSOLE" in line] == []
    body = Page(done.stdout).find("body")[0][1]
    said = json.loads(body)
    assert said["ascending"] == ["2.5", "9.5", "30.0", "123.4"]
    assert said["aria"] == "ascending"
    assert said["descending"] == said["ascending"][::-1]
    assert said["gapsLast"] == ["3.2", "3.2", "3.2", "–"][: 0 if width < 640 else 4]
    assert said["cards"] == said["drawn"] == 1
    assert said["count"].startswith("1 of 4 runs shown")
    assert said["overflow"] <= 0
    phone = width < 640  # a label then replaces the columns of identity
    assert said["betas"] == ([] if phone else ["0.0625", "0.5", "0.5", "16"])
    assert said["filtered"] == ([] if phone else ["linear"])
    assert said["reset"] == (0 if phone else 4)
    assert said["words"] == ([] if phone else ["tanh"] * 3)
    assert said["means"] == ([] if phone else ["tanh"] * 2)
    assert said["wide"] == 0 < said["asked"]
