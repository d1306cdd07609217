"""How fast a report answers in Chromium: milliseconds from a click to the next frame.

    python -m benchmarks.page runs/<sweep>/report.html

Medians of 5; beyond 200 ms people notice. Needs playwright and a Chromium.
"""

import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

ROUNDS = 5
# from an act until the frame that shows it is made: a timeout that is set before a frame is
# drawn comes after it
UNTIL = """
const until = (act, heard = Promise.resolve()) => {
  const start = performance.now();
  act();
  return heard.then(() => new Promise((done) => requestAnimationFrame(
    () => setTimeout(() => done(performance.now() - start)))));
};
const hash = () => new Promise((done) =>
  addEventListener("hashchange", done, { once: true }));
"""
SEARCH = """
const words = document.getElementById("words");
const type = (text) => until(() => {
  words.value = text;
  words.dispatchEvent(new Event("input", { bubbles: true }));
});
"""
ACTS = {  # what a person does -> the milliseconds that it takes
    "sorted by a column": """
        const buttons = [...document.querySelectorAll("#runs thead th button")];
        return until(() => buttons.find((b) => b.textContent.includes("KL")).click());""",
    "filtered by a word": SEARCH + "await type(''); return type('hardtanh');",
    "filter cleared": SEARCH + "await type('hardtanh'); return type('');",
    "a run opened": """
        const links = [...document.querySelectorAll("#runs tbody a")];
        const others = links.filter((each) => each.hash !== location.hash);
        const link = others[Math.floor(Math.random() * others.length)];
        return until(() => link.click(), hash());""",
    "a run lit from the legend": """
        const buttons = [...document.querySelectorAll(".legend button")];
        const one = buttons[Math.floor(buttons.length / 2)];
        const spent = await until(() => one.click());
        one.click();
        return spent;""",
}


def milliseconds(path: Path) -> dict[str, float]:
    """Of each of ACTS, and "loaded", from the address to the first frame of all.

    Raises:
        ImportError: There is no playwright.
        FileNotFoundError: There is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise FileNotFoundError("no chromium and no google-chrome on PATH")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(path.resolve().as_uri())
        page.evaluate(f"() => {{ {UNTIL} return until(() => {{}}); }}")
        found: dict[str, float] = {"loaded": page.evaluate("performance.now()")}
        for name, act in ACTS.items():
            found[name] = statistics.median(_spent(page, act) for _ in range(ROUNDS))
        browser.close()
    return found


def _spent(page: Any, act: str) -> float:
    page.evaluate("scrollTo(0, document.getElementById('runs').offsetTop - 100)")
    page.wait_for_timeout(300)  # what the act before left to do
    return page.evaluate(f"async () => {{ {UNTIL} {act} }}")


def main() -> None:
    for name, value in milliseconds(Path(sys.argv[1])).items():
        print(f"{name:28s} {value:7.0f} ms")


if __name__ == "__main__":
    main()
