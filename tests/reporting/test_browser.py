"""The report in a real browser: values under the pointer, themes, a sweep that trains."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
from helpers import ROWS, Cli, summary, write_run
from playwright.sync_api import Error

from vae_sweep import report
from vae_sweep.records import results
from vae_sweep.reporting import style

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def opened(browser):
    """Opens a page, of which nothing may complain or ask for anything but itself."""
    wrong, contexts = [], []

    def open_page(path: Path, width: int = 1280, scheme: str = "light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:")) or wrong.append(request.url)
            ),
        )
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def sweep(tmp_path) -> Path:
    """Four runs, whose curves lie apart."""
    for k, (head, seed) in enumerate((h, s) for h in ("tanh", "linear") for s in (0, 1)):
        rows = [f"{step},1,5,6,0.5,{3 * k + step / 10},{k},-9,4,7," for step in (10, 20)]
        write_run(tmp_path / "main", None, rows=rows, head=head, seed=seed)
    return tmp_path / "main"


def vertex(page, run: int, number: int = -1) -> tuple[float, float]:
    """Where a run's vertex in the first figure is, in pixels of the window."""
    return page.evaluate(
        """([run, number]) => {
          const svg = document.querySelector(".plot svg");
          const path = svg.querySelector(`.runs > g[data-run="${run}"] path`);
          const at = path.getAttribute("d").slice(1).split("L").at(number).split(" ");
          const point = new DOMPoint(...at).matrixTransform(svg.getScreenCTM());
          return [point.x, point.y];
        }""",
        [run, number],
    )


def test_the_pointer_shows_values_and_a_click_goes_to_the_run(sweep, opened):
    loaded = results.load(sweep)
    page = opened(report.write(sweep))
    page.locator(".plot").first.scroll_into_view_if_needed()
    for run, number in ((0, 0), (2, -1)):
        x, y = vertex(page, run, number)
        page.mouse.move(x + 2, y - 1)
        page.wait_for_selector("#tip", state="visible")
        row = loaded.curves[loaded.curves["run_id"] == loaded.runs[run].run_id].iloc[number]
        label = results.labels(loaded.finals)[loaded.runs[run].run_id]
        said = page.locator("#tip").inner_text().split("\n")
        assert said == [
            label,
            f"step: {row['step']}",
            f"val PSNR (dB): {row['val/psnr']:g}",
        ]
        lit = page.evaluate(
            "[...document.querySelectorAll('.lit > g')].map(g => g.dataset.run)"
        )
        assert {*lit} == {str(run)}
        assert len(lit) >= 4  # in every figure that shows the run
    page.mouse.click(x, y)
    assert page.evaluate("location.hash") == "#run-2"
    assert page.evaluate("document.querySelector('.card:target').id") == "run-2"
    assert page.locator("#run-2").is_visible()
    page.mouse.move(1, 1)
    assert page.locator("#tip").is_hidden()
    assert page.locator("#runs tr.lit").get_attribute("data-run") == "2"  # it stays
    page.keyboard.press("Escape")
    assert page.locator(".lit > g").count() == 0


def test_figures_answer_the_keyboard(sweep, opened):
    page = opened(report.write(sweep))
    page.locator(".plot").nth(2).focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    said = page.locator("#said").inner_text()
    assert said == "linear · seed 1, step 10, val KL (nats per image) 3"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#run-1"


def test_a_filter_holds_for_figures_and_pictures(sweep, opened):
    page = opened(report.write(sweep))
    page.select_option("select[data-column=head]", "tanh")
    shown = (
        "[...document.querySelectorAll(`{}`)].filter(e => e.getClientRects().length).length"
    )
    assert page.evaluate(shown.format(".card")) == 2
    assert page.evaluate(shown.format(".plot:first-child .runs > g")) == 2
    x, y = vertex(page, 0)  # whose head is linear
    page.mouse.move(x, y)
    page.wait_for_timeout(100)
    assert "linear" not in page.locator("#tip").inner_text()


@pytest.mark.parametrize("width", [390, 1280])
def test_every_column_that_matters_is_in_view(tmp_path, opened, width):
    """Of a sweep whose commands differ in more than names."""
    for latent in (4, 8):
        for seed in (0, 1):
            more = {"model__widths": [latent] * 12, "train__lr": latent / 1e4}
            write_run(tmp_path, summary(), seed=seed, model__latent=latent, **more)
    page = opened(report.write(tmp_path), width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ends = page.evaluate(
        """[...document.querySelectorAll("#means thead th, #runs thead th")]
          .filter((cell) => cell.getClientRects().length)
          .map((cell) => [cell.textContent.trim(), cell.getBoundingClientRect().right])"""
    )
    shown = {re.sub(r"\s+", " ", name): end for name, end in ends}
    assert {"val PSNR (dB)", "calibrated bits/dim", "KL (nats)"} <= {*shown}
    assert ("run" in shown) == (width > 640)
    assert max(shown.values()) <= width
    page.evaluate("document.getElementById('all-columns').click()")
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", style.THEMES)
def test_figures_follow_the_theme_and_print_on_white(sweep, opened, scheme):
    page = opened(report.write(sweep), scheme=scheme)
    colors = """[
      getComputedStyle(document.body).backgroundColor,
      getComputedStyle(document.querySelector(".plot text")).fill,
      getComputedStyle(document.querySelector(".runs path")).stroke]"""
    theme = style.THEMES[scheme]

    def rgb(color: str) -> str:
        return "rgb({}, {}, {})".format(*(int(color[i : i + 2], 16) for i in (1, 3, 5)))

    expected = [rgb(c) for c in (theme.paper, theme.ink, theme.colors[0])]
    assert page.evaluate(colors) == expected
    page.emulate_media(media="print")
    light = style.LIGHT
    printed = [rgb(c) for c in (light.paper, light.ink, light.colors[0])]
    assert page.evaluate(colors) == printed


def test_a_sweep_is_followed_while_it_trains(tmp_path, opened):
    cli = Cli(tmp_path)
    folder = tmp_path / "runs/main"
    training = cli.start(
        *("-m", "head=tanh,linear", "data=npz", f"data.path={tmp_path}/images.npz"),
        *("data.cache=cache", "model.widths=[4,8]", "model.latent=4", "train.workers=1"),
        *("train.batch_size=8", "train.steps=1000000", "train.eval_every=200"),
    )
    following = None
    try:
        until(lambda: len(list(folder.glob("*/metrics.csv"))) == 2)
        line = [sys.executable, "-m", "vae_sweep.report", str(folder), "--follow"]
        following = subprocess.Popen(
            [*line, "--every", "1"], env=cli.env, stdout=subprocess.PIPE, text=True
        )
        until((folder / "report.html").exists)
        page = opened(folder / "report.html")
        page.locator("#how summary").click()
        page.select_option("select[data-column=head]", "tanh")
        page.locator("#runs thead th:has-text('KL') button").first.click()
        page.evaluate("scrollTo(0, 400)")

        def rows() -> int:
            path = page.locator(".runs path").first.get_attribute("d") or ""
            return path.count("L")

        before = rows()
        until(lambda: rows() > before)  # it loaded itself
        assert page.locator("#how").get_attribute("open") is not None
        assert page.locator("select[data-column=head]").input_value() == "tanh"
        assert page.locator("#runs th[aria-sort=ascending]").inner_text().startswith("KL")
        assert abs(page.evaluate("scrollY") - 400) <= 2
        assert page.locator("progress").count() >= 1
        training.send_signal(signal.SIGTERM)
        said, _ = following.communicate(timeout=60)
        assert following.returncode == 0
        assert said.splitlines()[0].endswith(f"while {folder} trains")
        assert said.splitlines()[1] == f"{folder} has ended: the page is final"
        until(lambda: page.locator("#follow").count() == 0)
        assert "2 interrupted" in page.locator("header").inner_text()
        assert page.locator("#how").get_attribute("open") is not None
    finally:
        for process in filter(None, (training, following)):
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.communicate()


def until(holds, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except Error:
            pass  # between two pages
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def test_a_sweep_that_does_not_train_gets_its_page_at_once(sweep):
    line = [sys.executable, "-m", "vae_sweep.report", str(sweep), "--follow"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{sweep} is not training: the page is final\n")
    assert 'id="follow"' not in (sweep / "report.html").read_text()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--every", "3"], "--every goes with --follow"),
        (["--follow", "--every", "0.1"], "at least 1; got 0.1"),
        (["--follow", "--every", "nan"], "at least 1; got nan"),
    ],
)
def test_mistakes_in_following_are_one_line(sweep, typed, said):
    line = [sys.executable, "-m", "vae_sweep.report", str(sweep), *typed]
    done = subprocess.run(line, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


HEADS = ("linear", "tanh")
ORDER = "[...document.querySelectorAll('#runs tbody tr')].map((row) => row.dataset.run)"


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """300 runs of 100 points, of which one has no numbers yet."""
    folder = tmp_path_factory.mktemp("runs") / "many"
    for i, (head, beta, seed) in enumerate(product(HEADS, range(1, 51), range(3))):
        numbers = summary()
        numbers["final"] |= {"val/psnr": 10 + 37 * i % 300 / 20, "val/kl": float(i)}
        ended = numbers if i else None
        rows = ["0,0,1,1,1,,,,,,"] if i == 0 else ROWS
        write_run(folder, ended, rows=rows, head=head, beta__value=float(beta), seed=seed)
    return folder


def to_the_end(page) -> list[int]:
    """The runs of the table in their order, after scrolling it to its end."""
    until(
        lambda: page.evaluate("changes.length === 0")
    )  # figures and pictures follow the table
    count = -1
    while count != (count := page.locator("#runs tbody tr").count()):
        page.evaluate("document.getElementById('runs').scrollTo(0, 1e6)")
        page.wait_for_timeout(100)
    return list(map(int, page.evaluate(ORDER)))


def test_a_table_of_hundreds_of_runs_sorts_and_filters(many, opened):
    finals = results.load(many).finals
    page = opened(report.write(many))
    assert 0 < page.locator("#runs tbody tr").count() < len(finals)  # more come
    assert to_the_end(page) == list(range(len(finals)))
    button = page.locator("#runs thead th:has-text('val PSNR') button")
    for ascending in (True, False):
        button.click()
        expected = finals["val/psnr"].sort_values(ascending=ascending, kind="stable")
        found = finals["val/psnr"].to_numpy()[to_the_end(page)]
        assert found.tolist()[:-1] == expected.tolist()[:-1]
        assert math.isnan(found[-1])  # what is not known is last, whichever way
    page.fill("#words", "tanh b17-s")
    wanted = finals[(finals["head"] == "tanh") & (finals["beta"] == "17")]
    expected = wanted["val/psnr"].sort_values(ascending=False)
    assert to_the_end(page) == expected.index.tolist()  # and is still sorted
    assert page.locator("#count").inner_text().startswith("3 of 300 runs shown")
    runs = """[...document.querySelectorAll(`{}`)]
      .filter((e) => e.style.display !== "none" && (e.closest("details")?.open ?? true))
      .map((e) => e.dataset.run)"""
    for selector in (".plot:nth-child(4) .runs > g", ".card"):
        those = page.evaluate(runs.format(selector))
        assert {*map(int, those)} <= {*expected.index}
        assert len(those) == (3 if "plot" in selector else 1)  # other seeds are folded
    page.select_option("select[data-column=seed]", "2")
    assert to_the_end(page) == [i for i in expected.index if finals["seed"][i] == 2]
    assert len(page.evaluate(runs.format(".card"))) == 1
    page.locator("button[type=reset]").click()
    until(lambda: page.evaluate("document.querySelectorAll('#runs tbody tr').length > 3"))
    assert len(to_the_end(page)) == len(finals)


def test_a_run_far_down_is_opened_and_found_again(many, opened):
    page = opened(report.write(many))
    number = 299
    page.evaluate(f"location.hash = 'run-{number}'")
    until(lambda: page.evaluate("document.querySelector('.card:target')"))
    card = page.locator(f"#run-{number}")
    page.wait_for_timeout(300)
    assert card.is_visible()
    assert 0 <= card.bounding_box()["y"] < 900
    assert page.locator("#runs tr.lit").count() == 0  # its row is not in the page yet
    assert to_the_end(page)[-1] == number
    assert page.locator("#runs tr.lit").get_attribute("data-run") == str(number)


def test_all_rows_are_printed(many, opened):
    page = opened(report.write(many))
    page.pdf()
    assert page.locator("#runs tbody tr").count() == 300
