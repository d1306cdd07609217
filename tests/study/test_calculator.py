"""docs/calculator.html against the package, in a real browser."""

import io
import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_config, make_images
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from study import calculator, published, wild

from vae_sweep.command import arguments
from vae_sweep.config import RunConfig
from vae_sweep.data.dataset import Dataset
from vae_sweep.data.spectrum import Spectra, Spectrum
from vae_sweep.data.splits import Splits
from vae_sweep.errors import UserError
from vae_sweep.theory.floor import head_floor
from vae_sweep.theory.linear import LinearGaussian
from vae_sweep.theory.prediction import predict
from vae_sweep.vae import heads, likelihoods, normalize, objective
from vae_sweep.vae.normalize import Affine, histograms
from vae_sweep.vae.point import Point, check, point

IMAGES = json.loads(calculator.IMAGES.read_text())
BASE = make_config("norm=zscore", "head=tanh")
OWN = {"shift": [0.485, 0.456, 0.406], "scale": [0.229, 0.224, 0.225]}
CLOSE = {"rel": 1e-9, "abs": 1e-15}


def test_the_committed_page_is_what_the_code_makes():
    assert calculator.PAGE.read_text() == calculator.made()


def test_the_counts_are_of_the_training_splits():
    shapes = {"cifar10": (49_000, [3, 32, 32]), "mnist": (59_000, [1, 28, 28])}
    # of the original images, as they are quoted everywhere
    known = {
        "cifar10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
        "mnist": ([0.1307], [0.3081]),
    }
    assert list(IMAGES) == list(shapes)
    for word, (n, shape) in shapes.items():
        assert IMAGES[word]["shape"] == shape
        counts = torch.tensor(IMAGES[word]["counts"])
        assert counts.sum(1).tolist() == [n * shape[1] * shape[2]] * shape[0]
        mean, std = normalize.moments(counts)
        assert mean.tolist() == pytest.approx(known[word][0], abs=2e-3)
        assert std.tolist() == pytest.approx(known[word][1], abs=4e-3)  # JPEG smooths


def test_the_counts_are_those_of_the_study():
    table = pd.read_csv(calculator.IMAGES.parent / "core" / "histogram.csv")
    assert table.to_numpy().T.tolist() == IMAGES["cifar10"]["counts"]


def small_dataset(folder: Path) -> Dataset:
    """8x8 images that vary in fewer directions than they have pixels, in all splits."""
    images = make_images(60).numpy()
    spectra = Spectra(images, "small", folder)
    return Dataset(Splits(images, images, images), "small", spectra)


def given(dataset: Dataset) -> dict[str, Any]:
    """What the page knows of a data set's images, unrounded."""
    spectra = []
    for scale in (np.ones(3), normalize.fit("zscore", dataset.counts).scale.numpy()):
        spectrum = dataset.spectra.of(scale, 1)
        ratio = scale / np.sqrt(np.mean(scale**2))
        pixel = spectrum.shares @ ratio**2
        found = {"ratio": ratio, "values": spectrum.values, "pixel": pixel}
        spectra.append({key: value.tolist() for key, value in found.items()})
    return {
        "shape": list(dataset.shape),
        "counts": dataset.counts.tolist(),
        "total": spectrum.total.tolist(),
        "spectra": spectra,
    }


def test_what_is_counted_of_images(tmp_path):
    dataset = small_dataset(tmp_path)
    found, expected = calculator.counted(dataset, "small"), given(dataset)
    assert found["counts"] == expected["counts"]
    assert found["total"] == pytest.approx(expected["total"], rel=1e-8)
    for one, other in zip(found["spectra"], expected["spectra"], strict=True):
        assert one["ratio"] == pytest.approx(other["ratio"], rel=1e-14)
        assert one["values"] == pytest.approx(other["values"], rel=1e-8)
        assert one.get("pixel", 1) == pytest.approx(
            other["pixel"] if "pixel" in one else 1, rel=1e-8
        )


def test_other_images_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_SWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(calculator, "IMAGES", tmp_path / "images.json")
    folder = tmp_path / "it's mine"
    folder.mkdir()
    for i, image in enumerate(make_images(30).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(folder / f"{i}.png")
    with pytest.raises(UserError, match=r"cifar10 has 50,000 .* got .* \(3, 8, 8\) in"):
        calculator.count(str(folder), "mnist.npz")
    assert not (tmp_path / "images.json").exists()


def test_damaged_counts_are_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(calculator, "IMAGES", tmp_path / "images.json")
    with pytest.raises(UserError, match=r"No such file .*count the images again: python"):
        calculator.made()
    (tmp_path / "images.json").write_text('{"cifar10": ')
    with pytest.raises(UserError, match=r"images.json cannot be read \(Expecting value"):
        calculator.made()


# --- in a browser ---

in_browser = [pytest.mark.browser, pytest.mark.slow]


class Tab:
    """The page, opened at an address; errors of its scripts and requests are kept."""

    def __init__(self, browser: Any, address: str = "", **context: Any):
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(**context)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(calculator.PAGE.as_uri() + address)

    def __call__(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def fill(self, field: str, value: str) -> None:
        """Types into a field, or chooses of a list."""
        place = self.page.locator(f"#{field}")
        if place.evaluate("e => e.tagName") == "SELECT":
            place.select_option(value)
        else:
            place.fill(value)

    def text(self, id_: str) -> str:
        return self.page.locator(f"#{id_}").inner_text()

    def wrong(self, field: str) -> str:
        """What is said beside a field."""
        place = self.page.locator(f"#{field}-wrong")
        assert place.is_visible() == (
            self.page.locator(f"#{field}").get_attribute("aria-invalid") == "true"
        )
        return place.inner_text() if place.is_visible() else ""


@pytest.fixture
def tab(browser) -> Iterator[Tab]:
    opened = Tab(browser)
    yield opened
    assert opened.errors == []
    assert all(url.startswith("file:") for url in opened.requests)
    opened.page.close()


ANSWER = """([cells, images]) => cells.map(([data, setup]) => {
  try {
    const found = answer(setup, images[data], DATA.options);
    return {...found, noise: noiseSentence(setup, found).text,
            said: found.floor && rangeSentence(setup.head, found.floor)};
  } catch (error) {
    if (error instanceof Wrong) return {wrong: error.message};
    throw error;
  }
})"""


def setup(**changes: Any) -> dict[str, Any]:
    """A set-up as the page has it."""
    plain = {
        **{"norm": "zscore", "target": "same", "head": "tanh", "likelihood": "mse"},
        **{"reduction": "sum", "factor": 1, "beta": 1, "latent": 10, "shape": [3, 8, 8]},
        "own": {},
    }
    return plain | changes


def configured(cell: dict[str, Any]) -> RunConfig:
    """The same as a point; a factor on the error divides beta."""
    keys = ("norm", "target", "head", "likelihood", "reduction")
    beta = BASE.beta.model_copy(update={"value": cell["beta"] / cell["factor"]})
    model = BASE.model.model_copy(update={"latent": cell["latent"]})
    update = {key: cell[key] for key in keys} | {"beta": beta, "model": model}
    return BASE.model_copy(update=update)


@pytest.fixture
def own_norm(monkeypatch):
    """The page's `own`, as a normalization of the package."""

    def own(counts: torch.Tensor) -> Affine:
        of = (torch.tensor(OWN[key], dtype=torch.float64) for key in ("shift", "scale"))
        return Affine(*(values[: len(counts)] for values in of))

    monkeypatch.setitem(normalize.OURS, "own", own)


class TestFormulas:
    pytestmark = in_browser

    def test_the_words_are_the_packages(self, tab):
        assert tab("Object.keys(NORMS)") == [*normalize.OURS]
        assert tab("Object.keys(REDUCTIONS)") == [*objective.OURS]
        implied = [k for k, v in likelihoods.OURS.items() if v.noise == "implied"]
        assert tab("Object.keys(IMPLIED)") == implied
        for field, of in (("head", heads), ("likelihood", likelihoods)):
            words = tab(f"[...form.elements.{field}.options].map((o) => o.value)")
            assert words == [*of.OURS]

    def test_noise_and_floors_are_the_packages(self, tab, own_norm, tmp_path):
        sets = {**IMAGES, "small": given(small_dataset(tmp_path))}
        cells = []
        errors = [("mse", r) for r in objective.OURS] + [("l1", "sum"), ("l1", "mean")]
        grid = itertools.product(
            sets, normalize.OURS, heads.OURS, errors, (1e-6, 40), (1, 255)
        )
        for data, norm, head, (likelihood, reduction), beta, factor in grid:
            shape = sets[data]["shape"]
            own = {"norm": {k: v[: shape[0]] for k, v in OWN.items()}}
            cell = setup(norm=norm, head=head, likelihood=likelihood, reduction=reduction)
            cell |= {"beta": beta, "factor": factor, "shape": shape, "own": own}
            cells.append((data, cell))
        assert len(cells) > 3000
        counts = {data: torch.tensor(known["counts"]) for data, known in sets.items()}
        points: dict[Any, Point] = {}
        floors: dict[Any, list[float]] = {}
        theirs, ours = [], []
        for (data, cell), found in zip(cells, tab(ANSWER, [cells, sets]), strict=True):
            config = configured(cell)
            key = (data, config.norm, config.likelihood, config.reduction, config.beta)
            if key not in points:
                size = math.prod(cell["shape"][1:])
                points[key] = point(config, counts[data], size)
            made = points[key]
            floor = (data, config.norm, config.head)
            if floor not in floors:
                floors[floor] = expected_floors(config.head, made.target, counts[data])
            ours += [made.sigma, made.beta_pixel, made.tempering, *floors[floor]]
            theirs += [found[name] for name in ("sigma", "betaPixel", "tempering")]
            for of in (found["floor"], *found["floors"]):
                theirs += [of[name] for name in ("outside", "mse", "msePixel", "psnrCap")]
        np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-18)

    def test_inputs_and_targets_are_scaled_apart(self, tab, own_norm):
        same = {"own": {"norm": OWN, "target": OWN}, "shape": [3, 32, 32]}
        cells = [
            ("cifar10", setup(norm=norm, target=target, **same))
            for norm, target in itertools.product(normalize.OURS, repeat=2)
        ]
        counts = torch.tensor(IMAGES["cifar10"]["counts"])
        for (_, cell), found in zip(cells, tab(ANSWER, [cells, IMAGES]), strict=True):
            made = point(configured(cell), counts, 32 * 32)
            assert found["sigma"] == pytest.approx(made.sigma, rel=1e-9)
            for name in ("norm", "target"):
                for part in ("shift", "scale"):
                    expected = getattr(getattr(made, name), part).tolist()
                    assert found[name][part] == pytest.approx(expected, **CLOSE)

    def test_equal_noise_is_what_matched_solves_for(self, tab, own_norm):
        script = """([cell, images]) => equalNoise(
          cell, answer(cell, images, DATA.options).sigma, images, DATA.options)"""
        counts = torch.tensor(IMAGES["cifar10"]["counts"])
        for likelihood in ("mse", "l1"):
            cell = setup(norm="own", own={"norm": OWN}, beta=3, factor=7)
            cell |= {"likelihood": likelihood, "shape": [3, 32, 32]}
            rows = tab(script, [cell, IMAGES["cifar10"]])
            assert [row["name"] for row in rows] == [*normalize.OURS]
            sigma = point(configured(cell), counts, 32 * 32).sigma
            for row in rows:
                for reduction, beta in zip(objective.OURS, row["betas"], strict=True):
                    if (likelihood, reduction) == ("l1", "gaussian"):
                        assert beta is None
                        continue
                    other = {"norm": row["name"], "reduction": reduction}
                    other |= {"beta": beta, "factor": 1}
                    found = point(configured(cell | other), counts, 32 * 32)
                    assert found.sigma == pytest.approx(sigma, rel=1e-9)

    def test_the_linear_optimum_is_the_packages(self, tab, tmp_path):
        dataset = small_dataset(tmp_path)
        images = given(dataset)
        script = """([images, scale, latent, size, at, tempers]) => {
          const linear = linearGaussian(images, scale, latent, size);
          return [...at.map((v) => optimumAt(linear, v)),
                  ...tempers.map((t) => optimumLearned(linear, t))];
        }"""
        for norm, latent in itertools.product(("minus1_1", "zscore"), (1, 10, 50)):
            scale = normalize.fit(norm, dataset.counts).scale.numpy()
            linear = LinearGaussian(dataset.spectra.of(scale, latent), scale, latent, 64)
            at, tempers = np.geomspace(1e-6, 1e4, 30).tolist(), [0.01, 0.5, 1.0, 2.0, 30.0]
            ours = [linear.at(v) for v in at] + [linear.learned(t) for t in tempers]
            known = [images, scale.tolist(), latent, 64, at, tempers]
            for one, other in zip(ours, tab(script, known), strict=True):
                assert other["activeUnits"] == one.active_units
                names = ("variance", "threshold", "kl", "mse", "msePixel")
                shown = [other[name] for name in names]
                expected = [one.variance, one.threshold, one.kl, one.mse, one.mse_pixel]
                assert shown == pytest.approx(expected, rel=1e-9, abs=1e-12)

    def test_an_optimum_that_needs_more_eigenvalues_is_not_known(self, tab, tmp_path):
        dataset = small_dataset(tmp_path)
        images = given(dataset)
        scale = np.full(3, 0.5)
        full = dataset.spectra.of(scale, 1)
        first = Spectrum(full.values[:8], full.vectors[:8], full.shares[:8], full.total)
        images["spectra"][0]["values"] = first.values.tolist()
        script = """([images, at]) => at.map((v) =>
          optimumAt(linearGaussian(images, [0.5, 0.5, 0.5], 100, 64), v))"""
        lam = first.values / 0.25
        below, above = tab(script, [images, [lam[-1] * 0.9, lam[-1] * 1.1]])
        assert below is None
        expected = LinearGaussian(full, scale, 100, 64).at(lam[-1] * 1.1)
        assert above["kl"] == pytest.approx(expected.kl, rel=1e-9)
        assert above["msePixel"] == pytest.approx(expected.mse_pixel, rel=1e-9)

    def test_sentences_are_those_of_predict(self, tab, tmp_path):
        dataset = small_dataset(tmp_path)
        images = {"small": given(dataset)}
        cells = [
            ("small", setup(norm=norm, head=head, likelihood=of, reduction=r, beta=beta))
            for norm in ("unit", "minus1_1", "zscore")
            for head in ("linear", "tanh", "sigmoid")
            for of, r in (
                *(("mse", r) for r in objective.OURS),
                *(("gaussian_optimal", "sum"), ("l1", "mean"), ("bernoulli", "sum")),
            )
            for beta in (0, 1e-7, 0.01, 1, 30, 1000)
        ]
        seen = set()
        for (_, cell), found in zip(cells, tab(ANSWER, [cells, images]), strict=True):
            config = configured(cell)
            if refused := refusal(config):
                assert found == {"wrong": refused}
                seen.add("refused")
                continue
            made = point(config, dataset.counts, 64)
            predicted = predict(config, made, dataset)
            if not math.isnan(predicted.psnr_clipped):  # what the page says of it
                both = found["optimum"]["msePixel"] + found["floor"]["msePixel"]
                least = -10 * math.log10(both)
                assert least - 1e-4 < predicted.psnr_clipped <= predicted.psnr_cap + 1e-4
            expected = predicted.sentence
            expected = re.sub(r", [\d.]+ dB on the (val|test) images", "", expected)
            assert f"{found['said']}; {found['noise']}" == expected
            seen |= {kind for kind in KINDS if kind in expected}
        assert seen == {"refused", *KINDS}

    def test_collapse_is_seen_without_a_spectrum(self, tab, tmp_path):
        dataset = small_dataset(tmp_path)
        bare = {"small": {"counts": dataset.counts.tolist(), "shape": [3, 8, 8]}}
        cells = [("small", setup(beta=beta)) for beta in (1, 1e5)]
        little, much = tab(ANSWER, [cells, bare])
        assert little["noise"].endswith("/255")
        config = configured(cells[1][1])
        expected = predict(config, point(config, dataset.counts, 64), dataset).sentence
        assert expected.endswith(much["noise"])
        assert "expect all 10 latents to be unused" in expected

    def test_losses_of_code_bases_imply_what_is_published(self, tab):
        table = published.load(calculator.IMAGES.parent / wild.NAME)
        losses = {loss.about.name: loss for loss in wild.losses(table)}
        script = """() => DATA.presets.map((preset) => {
          const state = presetState(preset);
          show(state);
          const set = setupOf(shown());
          return [preset.name, answer(set, imagesOf(state, set.shape), DATA.options).sigma,
                  document.getElementById("problem").hidden, aboutPresetOf()];
        })"""
        about = "() => element('preset').selectedOptions[0].textContent"
        found = tab(script.replace("aboutPresetOf()", f"({about})()"))
        assert {name for name, *_ in found} == set(losses)
        for name, sigma, fine, selected in found:
            assert fine
            assert losses[selected.strip()].config == losses[name].config
            expected = losses[name].sigma
            if math.isnan(expected):
                assert sigma is None
            else:
                assert sigma == pytest.approx(expected, rel=1e-5)  # published with 6 digits


def refusal(config: RunConfig) -> str | None:
    """Why a point cannot be."""
    try:
        return check(config)
    except UserError as error:
        return str(error)


KINDS = (
    *("reaches every target", "lie outside", "is a plain autoencoder", "learned noise"),
    *("no linear optimum in closed form", "multiplies beta", "all 10 latents"),
    *("almost no effect", "most latents", "latents in use"),
)


class TestPage:
    pytestmark = in_browser

    def test_a_link_has_the_state_and_is_short(self, tab, browser):
        for field, value in {
            "norm": "own",
            "norm_shift": "(0.485, 0.456, 0.406)",
            "norm_scale": "0.229 0.224 0.225",
            "target": "minus1_1",
            "head": "sigmoid",
            "likelihood": "l1",
            "reduction": "mean",
            "beta": "10/255",
            "factor": "3",
            "latent": "128",
            "height": "64",
            "width": "48",
        }.items():
            tab.fill(field, value)
        address = tab("location.hash")
        assert len(address) < 250
        other = Tab(browser, address)
        assert other("shown()") == tab("shown()")
        for part in ("numbers", "range", "balance", "commands", "equal-table"):
            assert other.text(part) == tab.text(part)
        assert other("location.hash") == address
        other.page.close()
        tab.page.locator("button[type=reset]").click()
        assert tab("location.hash") == ""
        assert tab("shown()") == Tab(browser)("shown()")

    def test_an_answer_of_other_images_has_their_shape(self, tab, browser):
        tab.fill("data", "mnist")
        assert tab("location.hash") == "#data=mnist"
        assert tab("SHAPE.map((field) => shown()[field])") == ["1", "28", "28"]
        other = Tab(browser, "#data=mnist")
        assert other("shown()") == tab("shown()")
        other.page.close()

    def test_an_equal_noise_beta_leads_to_that_set_up(self, tab):
        noise = tab.page.locator("#numbers dd").first.inner_text()
        tab.page.locator("#equal-table tr:nth-child(2) td:nth-child(4) a").click()
        tab.page.wait_for_function("() => form.elements.norm.value === 'minus1_1'")
        assert tab("form.elements.reduction.value") == "mean"
        assert tab.page.locator("#numbers dd").first.inner_text() == noise
        assert tab.page.locator("#equal-table td.here").inner_text() == "0.005196"
        tab.page.go_back()
        tab.page.wait_for_function("() => form.elements.norm.value === 'zscore'")

    def test_the_table_is_copied_as_markdown(self, browser):
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
        opened = Tab(context, "#reduction=mean")
        button = opened.page.locator("#copy-table")
        button.click()
        is_copied = "(id) => element(id).textContent === 'Copied'"
        opened.page.wait_for_function(is_copied, arg="copy-table")
        header, rule, *lines = opened("navigator.clipboard.readText()").splitlines()
        assert header == "| norm | sum | gaussian | mean | pixel_mean |"
        assert rule == "|---|--:|--:|--:|--:|"
        cells = {line.split(" | ")[0][2:]: line[:-2].split(" | ")[1:] for line in lines}
        assert [*cells] == [*normalize.OURS]
        assert float(cells["zscore"][2]) == 1
        assert float(cells["zscore"][0]) == pytest.approx(3072 / 64, rel=1e-9)
        opened.page.locator("#commands button").first.click()
        opened.page.wait_for_function(is_copied, arg="said")
        copied = opened("navigator.clipboard.readText()")
        assert copied.startswith("vae-sweep predict norm=zscore head=tanh reduction=mean")
        opened.page.locator("#link").click()
        opened.page.wait_for_function(is_copied, arg="link")
        assert opened("navigator.clipboard.readText()").endswith(
            "calculator.html#reduction=mean"
        )
        context.close()

    def test_what_an_address_cannot_say_is_told(self, browser):
        other = Tab(browser, "#head=softmax&hue=red&beta=2")
        said = other.text("problem")
        assert "head=softmax" in said
        assert "hue=red" in said
        assert other("form.elements.head.value") == "tanh"
        assert other("form.elements.beta.value") == "2"
        assert other.errors == []
        other.page.close()

    @pytest.mark.parametrize(
        ("field", "value", "said"),
        [
            ("beta", "-1", "β must be 0, or from 1e-30 to 1e15, got -1"),
            ("beta", "", "got nothing"),
            ("beta", "0,5", "got 0,5"),
            ("factor", "0", "the factor must be above 0"),
            ("latent", "0", "D must be a whole number from 1, got 0"),
            ("latent", "2.5", "whole number"),
            ("height", "many", "H must be a whole number from 1, got many"),
            ("channels", "1", "CIFAR-10, re-encoded as JPEG has C=3, got 1; set C=3"),
            ("norm_scale", "0", "the scale must be a number above 0, got 0"),
            ("norm_scale", "0.2, 0.2", "one for each of 3 channels, got 2"),
            ("norm_shift", "a", "the shift must be a number"),
        ],
    )
    def test_bad_input_is_answered_in_words(self, tab, field, value, said):
        if field.startswith("norm_"):
            tab.fill("norm", "own")
        before = tab.text("numbers")
        tab.fill(field, value)
        assert said in tab.wrong(field)
        assert said in tab.text("problem")
        tab.page.locator("button[type=reset]").click()
        assert tab.wrong("beta") == tab.text("problem") == ""
        assert tab.text("numbers") == before or field.startswith("norm_")

    def test_a_beta_of_0_is_an_autoencoder(self, tab):
        tab.fill("beta", "0")
        assert "is a plain autoencoder" in tab.text("balance")
        assert "implies no noise" in tab.text("equal")

    def test_it_fits_a_phone_and_a_desk(self, browser):
        for width in (320, 390, 1280):
            opened = Tab(browser, "#norm=own", viewport={"width": width, "height": 800})
            assert opened("document.documentElement.scrollWidth") <= width
            unlabelled = """[...form.querySelectorAll('input, select')]
                            .filter((e) => !e.labels.length).map((e) => e.id)"""
            assert opened(unlabelled) == []
            assert opened.errors == []
            opened.page.close()

    def test_it_is_worked_by_keyboard(self, tab):
        tab.page.locator("#head").focus()
        tab.page.keyboard.press("Home")
        assert tab("form.elements.head.value") == "linear"
        assert "linear reaches every target" in tab.text("range")
        tab.page.keyboard.press("Tab")
        assert tab("document.activeElement.id") == "latent"

    def test_the_drawing_marks_what_is_out_of_reach(self, tab):
        counts = torch.tensor(IMAGES["cifar10"]["counts"])
        target = normalize.fit("zscore", counts)
        t = target.forward(normalize.levels(3)).squeeze(1)
        assert tab.page.locator("#drawing .miss").count() == int((t.abs() > 1).sum())
        assert tab.page.locator("#drawing .bar").count() == int((t.abs() <= 1).sum())
        tab.fill("head", "linear")
        assert tab.page.locator("#drawing .miss").count() == 0

    def test_a_command_is_the_set_up(self, tab, monkeypatch, tmp_path):
        tab.fill("norm", "own")
        tab.fill("norm_shift", "0.485, 0.456, 0.406")
        tab.fill("norm_scale", "0.229, 0.224, 0.225")
        tab.fill("target", "zscore_global")
        tab.fill("reduction", "pixel_mean")
        tab.fill("beta", "0.003")
        tab.fill("factor", "8")
        script, said, run = tab.page.locator("#commands pre").all_inner_texts()
        (tmp_path / "scaling.py").write_text(script)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        program, command, *words = run.split()
        assert (program, command) == ("vae-sweep", "run")
        assert said.split() == ["vae-sweep", "predict", *words]
        config = composed(words)
        check(config)
        counts = torch.tensor(IMAGES["cifar10"]["counts"])
        made = point(config, counts, 32 * 32)
        assert made.norm.shift.tolist() == OWN["shift"]
        assert made.norm.scale.tolist() == OWN["scale"]
        found = tab("answer(setupOf(shown()), DATA.images.cifar10, DATA.options).sigma")
        assert found == pytest.approx(made.sigma, rel=1e-9)

    def test_commands_of_code_bases_are_their_losses(self, tab):
        script = """() => DATA.presets.map((preset) => {
          const state = presetState(preset);
          return optionsOf(state, setupOf(state));
        })"""
        presets = tab("DATA.presets")
        losses = {about.name: config for about, config in wild.points()}
        for preset, words in zip(presets, tab(script), strict=True):
            said, meant = dict(w.split("=", 1) for w in words), losses[preset["name"]]
            for key in ("norm", "head", "reduction"):
                assert said[key] == getattr(meant, key)
            assert said.get("target", "same") == meant.target
            assert said.get("likelihood", "mse") == meant.likelihood
            assert float(said["beta"]) == meant.beta.value
            assert said["model.latent"] == str(meant.model.latent)
            channels, size, _ = wild.shape(meant)
            native = {(1, 28): "mnist", (3, 32): "cifar10"}
            assert said["data"] == native.get((channels, size), "image_folder")
            if (channels, size) not in native:
                assert said["data.size"] == str(size)
                assert ("data.grayscale" in said) == (channels == 1)


def composed(words: list[str]) -> RunConfig:
    """The point of what is typed after vae-sweep."""
    parser = OverridesParser.create()
    parts = [
        part.input_line
        for word in words
        for part in arguments.constant_beta(arguments.parse(word, parser))
    ]
    return make_config(*parts)


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def file(name: str, content: bytes, kind: str = "image/png") -> dict[str, Any]:
    return {"name": name, "mimeType": kind, "buffer": content}


class TestImages:
    pytestmark = in_browser

    def choose(self, tab: Tab, *files: dict[str, Any]) -> None:
        before = tab("mine?.about ?? ''") + tab.text("problem")
        tab.page.set_input_files("#files", [*files])
        tab.page.wait_for_function(
            "(before) => (mine?.about ?? '') + element('problem').innerText !== before",
            arg=before,
        )

    def test_counts_of_images_are_numpys(self, tab):
        rng = np.random.default_rng(0)
        pictures = [rng.integers(0, 256, (24, 40, 3), dtype=np.uint8) for _ in range(3)]
        pictures[0][..., 1] = np.arange(24 * 40).reshape(24, 40) % 256  # every level
        self.choose(tab, *(file(f"{i}.png", png(p)) for i, p in enumerate(pictures)))
        stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        assert tab("mine.byChannels[3]") == histograms(stacked).tolist()
        gray = [np.asarray(Image.fromarray(p).convert("L")) for p in pictures]
        expected = np.bincount(np.stack(gray).ravel(), minlength=256)
        assert tab("mine.byChannels[1][0]") == expected.tolist()
        assert tab("SHAPE.map((field) => shown()[field])") == ["3", "24", "40"]
        assert tab.text("data-about").startswith("3 images, of 24x40 (HxW).")
        target = normalize.fit("zscore", histograms(stacked))
        floor = head_floor(heads.named("tanh"), target, histograms(stacked))
        assert f"{floor.psnr_cap:.2f} dB" in tab.text("range")
        tab.fill("channels", "1")
        assert "data.grayscale=true" in tab.text("commands")
        assert tab.wrong("channels") == ""

    def test_gray_images_have_one_channel(self, tab):
        pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
        self.choose(tab, file("gray.png", png(pixels)))
        assert tab("form.elements.channels.value") == "1"
        assert tab("mine.byChannels[1]") == [[1] * 256]
        assert "data.grayscale=true" in tab.text("commands")

    def test_transparent_pixels_show_white_as_in_training(self, tab):
        pixels = np.zeros((8, 8, 4), np.uint8)
        pixels[:4] = (10, 20, 30, 255)
        self.choose(tab, file("a.png", png(pixels)))
        counts = tab("mine.byChannels[3]")
        for channel, level in zip(counts, (10, 20, 30), strict=True):
            assert {i: n for i, n in enumerate(channel) if n} == {level: 32, 255: 32}

    def test_other_files_are_left_out_by_name(self, tab):
        self.choose(tab, file("notes.txt", b"no image", "text/plain"))
        assert "notes.txt" in tab.text("problem")
        assert tab("form.elements.data.value") == "cifar10"
        one = file("one.png", png(np.full((8, 8, 3), 7, np.uint8)))
        other = file("other.png", png(np.full((4, 8, 3), 9, np.uint8)))
        self.choose(tab, one, other, file("broken.png", b"\x89PNG"))
        assert "broken.png" in tab.text("problem")
        assert "2 images, gray: one channel, of 2 sizes" in tab.text("data-about")
        tab.fill("head", "linear")
        assert tab.text("problem") == ""

    def test_images_of_one_color_have_no_z_score(self, tab):
        self.choose(tab, file("flat.png", png(np.full((8, 8, 3), 7, np.uint8))))
        counts = torch.tensor(tab("mine.byChannels[1]"))
        with pytest.raises(UserError) as refused:
            normalize.fit("zscore", counts)
        assert tab.wrong("norm") == str(refused.value)

    def test_dropped_files_are_read(self, tab):
        pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        script = """(bytes) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "a.png"));
          const about = {dataTransfer: transfer, bubbles: true, cancelable: true};
          document.body.dispatchEvent(new DragEvent("drop", about));
        }"""
        tab(script, [*png(pixels)])
        tab.page.wait_for_function("() => mine !== null")
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        assert tab("mine.byChannels[3]") == histograms(image).tolist()

    def test_a_link_does_not_carry_images_and_says_so(self, tab, browser):
        self.choose(tab, file("a.png", png(np.full((8, 8, 3), 7, np.uint8))))
        tab.fill("norm", "minus1_1")
        other = Tab(browser, tab("location.hash"))
        assert "does not carry" in other.text("range")
        assert "90" in other.page.locator("#numbers dd").first.inner_text()
        other.fill("norm", "zscore")
        assert "there are none" in other.wrong("norm")
        assert other.errors == []
        other.page.close()


def expected_floors(head: str, target: Affine, counts: torch.Tensor) -> list[float]:
    """Of all channels together, then of each."""
    found = [head_floor(heads.named(head), target, counts)]
    for c, channel in enumerate(counts):
        alone = Affine(target.shift[c : c + 1], target.scale[c : c + 1])
        found.append(head_floor(heads.named(head), alone, channel[None]))
    return [number for floor in found for number in floor]
