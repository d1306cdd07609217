import hashlib
import io
import math
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import COLUMNS, PREDICTED, cap, config_values, summary, write_run
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import vae_sweep
from vae_sweep.errors import UserError
from vae_sweep.records import reader, results
from vae_sweep.records.claim import Claims
from vae_sweep.records.comparisons import over_seeds
from vae_sweep.reporting import tables

DAMAGES = {
    "metrics.csv": [b'garbage,,,"\n', b"\xff\xfe\n", b"step,epoch\nx,1\n", b"a,b\n1,2\n"],
    "summary.json": [b"[]", b'{"status": "done"}', b"{", b'"x"', b'{"status": NaN}'],
    "config.yaml": [b"\xff\xfe", b"a: [\nb: {", b"norm: unit", b"- 1", b""],
}
CASES = [(name, content) for name, of in DAMAGES.items() for content in of]


@pytest.mark.parametrize(("name", "content"), CASES)
def test_a_run_that_cannot_be_read_is_skipped_with_the_reason(tmp_path, name, content):
    bad, good = write_run(tmp_path, None), write_run(tmp_path, summary(), seed=1)
    (tmp_path / bad / name).write_bytes(content)
    loaded = results.read(tmp_path)
    assert loaded.finals["run_id"].tolist() == [good]
    assert list(loaded.skipped) == [bad]
    assert loaded.skipped[bad].startswith(name)
    [line] = results.left_out(loaded)
    assert line.startswith(f"left out 1 run: {bad} ({name}")
    assert "\n" not in line
    with pytest.raises(UserError, match=name) as refused:
        results.load(tmp_path, [bad])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_file_that_is_a_folder_is_skipped_with_the_reason(tmp_path, name):
    bad, good = write_run(tmp_path, summary()), write_run(tmp_path, summary(), seed=1)
    (tmp_path / bad / name).unlink()
    (tmp_path / bad / name).mkdir()
    loaded = results.read(tmp_path)
    assert loaded.finals["run_id"].tolist() == [good]
    assert "directory" in loaded.skipped[bad]


def test_rows_that_the_summary_does_not_state_are_not_shown(tmp_path):
    stated = {"steps": 20, "rows": 2, "metrics_sha256": "0" * 64}
    run_id = write_run(tmp_path, summary(**stated))
    write_run(tmp_path, summary(), seed=1)
    assert "other rows" in results.read(tmp_path).skipped[run_id]


TRAINING = "step,loss,mse,kl\n0,4,0.5,1\n5,2,0.25,3\n"


def test_training_curves_are_a_frame(tmp_path):
    first, old = write_run(tmp_path, summary()), write_run(tmp_path, summary(), seed=1)
    (tmp_path / first / "training.csv").write_text(TRAINING + "10,1,0.1")  # torn
    found = results.load(tmp_path)
    assert list(found.training) == [*results.IDENTITY, "step", "loss", "mse", "kl"]
    assert set(found.training["run_id"]) == {first}
    assert found.training[["step", "loss", "mse", "kl"]].values.tolist() == [
        [0, 4, 0.5, 1],
        [5, 2, 0.25, 3],
    ]
    assert found.training["step"].dtype == "int64"
    alone = results.load(tmp_path, [old]).training
    assert list(alone) == list(found.training)
    assert len(alone) == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (TRAINING.replace("loss", "lost"), "its columns must be step, loss, mse, kl"),
        (TRAINING.replace("5,2", "5,two"), "is damaged"),
        (TRAINING.replace("5,2", "-5,2"), "its steps do not rise"),
        (TRAINING, "has other rows than summary.json states"),
    ],
)
def test_a_damaged_training_curve_leaves_its_run_whole(tmp_path, content, reason):
    run_id = write_run(tmp_path, summary(training_sha256="0" * 64))
    (tmp_path / run_id / "training.csv").write_text(content)
    with pytest.warns(UserWarning, match="left out the training curves of 1 run: ") as said:
        found = results.load(tmp_path)
    assert reason in str(said[0].message)
    assert found.uncurved.keys() == {run_id}
    assert found.skipped == {}
    assert found.finals["val/psnr"].tolist() == [18.42]
    assert len(found.curves) == 2
    assert len(found.training) == 0


def test_a_curve_whose_digest_fits_is_parsed_when_it_is_asked_for(tmp_path):
    text = TRAINING.replace("5,2", "5,two")  # no run wrote it: a forged digest
    stated = hashlib.sha256(text.encode()).hexdigest()
    run_id = write_run(tmp_path, summary(training_sha256=stated))
    (tmp_path / run_id / "training.csv").write_text(text)
    found = results.load(tmp_path)
    assert found.uncurved == {}
    assert found.finals["val/psnr"].tolist() == [18.42]
    with pytest.raises(UserError, match=r"training.csv is damaged: .*two.*; remove it"):
        _ = found.training


SCALARS = st.sampled_from(
    [None, True, -1, 0.5, "", "a: b", "- x", "#", "null", "\nkey: 1", "x\n\ny: 2"]
)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text("ab"), v)
)
DAMAGE = ["\n", "\t", " ", "- ", "{", "]", "'", "|\n", "...\n", "b: 1\n", "? ", ": ", "#"]


@given(
    values=st.dictionaries(st.text("abc"), VALUES, max_size=5),
    edits=st.lists(st.tuples(st.integers(0, 200), st.sampled_from(DAMAGE)), max_size=3),
)
def test_a_text_means_what_it_means_to_yaml(values, edits):
    text = yaml.safe_dump(values, sort_keys=False)
    for place, added in edits:
        text = text[: place % (len(text) + 1)] + added + text[place % (len(text) + 1) :]

    def meaning(parse):
        try:
            return repr(parse(text))
        except (yaml.YAMLError, ValueError) as error:
            return type(error).__name__

    assert meaning(reader.parsed) == meaning(lambda text: yaml.load(text, reader.LOADER))


def test_runs_that_are_left_out_are_warned_of(tmp_path):
    whole, torn = write_run(tmp_path, summary()), write_run(tmp_path, summary(), seed=1)
    (tmp_path / torn / "summary.json").write_text("[]")
    with pytest.warns(UserWarning, match="left out 1 run") as said:
        loaded = results.load(tmp_path)
    assert said[0].filename == __file__
    assert list(loaded.finals["run_id"]) == [whole]
    assert loaded.skipped.keys() == {torn}
    assert results.read(tmp_path).skipped == loaded.skipped


def test_a_run_is_running_while_a_process_has_claimed_it(tmp_path):
    run, other = write_run(tmp_path, None), write_run(tmp_path, None, seed=1)
    assert results.load(tmp_path).finals["status"].tolist() == ["interrupted"] * 2
    with Claims() as claims:
        claims.take(tmp_path / run)
        found = results.load(tmp_path, [run, other]).finals["status"].tolist()
        assert found == ["running", "interrupted"]
    assert results.load(tmp_path).finals["status"].tolist() == ["interrupted"] * 2


def test_the_frames_unpack_as_the_readme_has_it(tmp_path):
    write_run(tmp_path, summary())
    found = results.load(tmp_path)
    curves, finals, theory = found.curves, found.finals, found.theory
    assert (len(curves), len(finals), len(theory)) == (2, 1, 3)


def test_the_runs_asked_for_come_first_and_the_rest_follows(tmp_path):
    ids = [write_run(tmp_path, summary(), seed=seed) for seed in range(4)]
    loaded = results.load(tmp_path, [ids[2]], rest=True)
    others = sorted(run_id for run_id in ids if run_id != ids[2])
    assert loaded.finals["run_id"].tolist() == [ids[2], *others]


def test_a_runs_own_folder_is_no_sweep(tmp_path):
    run_id = write_run(tmp_path, None)
    (tmp_path / run_id / ".hydra").mkdir()
    (tmp_path / run_id / ".hydra" / "config.yaml").write_text(
        yaml.safe_dump(config_values())
    )
    with pytest.raises(UserError, match="holds no runs"):
        results.load(tmp_path / run_id)


def test_a_folder_of_sweeps_names_them_and_a_file_is_called_one(tmp_path):
    for sweep in ("b", "a"):
        write_run(tmp_path / sweep, None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"sweeps: {tmp_path}/a, {tmp_path}/b$"):
        results.load(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}/file is a file"):
        results.load(tmp_path / "file")
    with pytest.raises(UserError, match=f"there is no folder {tmp_path}/c"):
        results.load(tmp_path / "c")


def printed(loaded: results.Results, width: int = 100) -> list[str]:
    file = io.StringIO()
    tables.print_table(loaded, Console(file=file, width=width))
    return file.getvalue().splitlines()


def test_curves_are_the_written_numbers(tmp_path):
    first = write_run(tmp_path, summary())
    second = write_run(tmp_path, None, beta__value=0.5, target="unit")
    curves = results.load(tmp_path, [first, second]).curves
    assert curves["run_id"].tolist() == [first, first, second, second]
    assert curves["step"].tolist() == [10, 20, 10, 20]
    assert curves["step"].dtype == "int64"
    assert curves["val/mse_pixel"].tolist() == [0.5, 0.25, 0.5, 0.25]
    assert curves["val/elbo"].tolist() == [-9, -8, -9, -8]
    np.testing.assert_equal(curves["test/psnr"].to_list(), [math.nan, 5.5] * 2)
    assert curves["target"].tolist() == ["zscore"] * 2 + ["unit"] * 2
    assert curves["beta"].tolist() == ["1", "1", "0.5", "0.5"]
    expected = [*results.IDENTITY, *COLUMNS.split(",")]
    assert curves.columns.tolist() == [*expected, "val/elbo_discrete", "val/sigma"]
    assert not any(curves["val/sigma"].notna())  # these runs have not measured it


def test_finals_are_the_summary(tmp_path):
    write_run(tmp_path, summary())
    [run] = results.load(tmp_path).finals.to_dict("records")
    assert run["status"] == "finished"
    assert (run["implied_sigma"], run["beta_value"]) == (48.3, 1.0)
    assert (run["psnr_cap"], run["predicted_floor_mse"]) == (18.5, 0.2)
    assert (run["psnr_cap_val"], run["psnr_cap_test"]) == (18.7, 18.6)
    assert (run["predicted_kl"], run["predicted_psnr"]) == (3.25, 5.125)
    assert math.isnan(run["predicted_bits_per_dim"])
    assert (run["seconds"], run["device"]) == (3.5, "cpu")
    assert run["val/psnr"] == 18.42
    assert math.isnan(run["test/psnr"])
    assert math.isnan(run["diverged_at"])


def test_no_floor_is_an_infinite_cap(tmp_path):
    write_run(tmp_path, summary(**cap(None, training=None)))
    finals = results.load(tmp_path).finals
    assert finals["psnr_cap"].tolist() == finals["psnr_cap_val"].tolist() == [math.inf]


def test_a_cap_that_an_earlier_version_did_not_state_is_not_known(tmp_path):
    """The training split's is no bound of val PSNR."""
    before = {k: v for k, v in PREDICTED.items() if not k.startswith("psnr_cap_")}
    write_run(tmp_path, summary(predicted=before, psnr_cap=18.5))
    loaded = results.load(tmp_path)
    [run] = loaded.finals.to_dict("records")
    assert run["psnr_cap"] == 18.5
    assert math.isnan(run["psnr_cap_val"])
    assert math.isnan(run["psnr_cap_test"])
    assert [line.split()[4:6] for line in printed(loaded)[2:3]] == [["?", "18.42"]]


@pytest.mark.parametrize("tail", ["30,3,4,5,0.1", "3", "30,3,4,5,0.1,6.02,2.5,-8,3,6.5,5"])
def test_a_torn_line_is_dropped_and_the_run_is_interrupted(tmp_path, tail):
    write_run(tmp_path, None, tail=tail)
    loaded = results.load(tmp_path)
    assert loaded.curves["step"].tolist() == [10, 20]
    [run] = loaded.finals.to_dict("records")
    assert run["status"] == "interrupted"
    assert run["val/kl"] == 2.5  # of the last whole row
    assert math.isnan(run["psnr_cap"])


def test_a_run_without_rows_is_there(tmp_path):
    with_rows = write_run(tmp_path, summary())
    bare = write_run(tmp_path, None, rows=[], seed=1)
    loaded = results.load(tmp_path, [bare, with_rows])
    assert loaded.finals["run_id"].tolist() == [bare, with_rows]
    assert set(loaded.curves["run_id"]) == {with_rows}
    assert loaded.curves["step"].dtype == "int64"
    alone = results.load(tmp_path, [bare])
    assert len(alone.curves) == 0
    assert "–" in printed(alone)[-2]


def test_order_and_restriction(tmp_path):
    ids = [write_run(tmp_path, summary(), seed=seed) for seed in (2, 0, 1)]
    (tmp_path / "notes").mkdir()
    (tmp_path / "overview.png").write_bytes(b"")
    assert results.load(tmp_path).finals["run_id"].tolist() == sorted(ids)
    backwards = [ids[2], ids[0], ids[2]]
    loaded = results.load(tmp_path, backwards)
    assert loaded.finals["run_id"].tolist() == [ids[2], ids[0]]
    assert loaded.finals["seed"].tolist() == [1, 2]


def test_what_is_not_there_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*absent"):
        results.load(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no runs"):
        results.load(tmp_path)
    run_id = write_run(tmp_path, None)
    with pytest.raises(UserError, match="nothing-like-it"):
        results.load(tmp_path, [run_id, "nothing-like-it"])
    (tmp_path / run_id / "config.yaml").write_text("norm: none\n")
    with pytest.raises(UserError, match=rf"{run_id}.config\.yaml"):
        results.load(tmp_path)


def test_labels_name_what_differs(tmp_path):
    one = write_run(tmp_path, summary())
    label = results.labels(results.load(tmp_path).finals)
    assert label[one] == "zscore · tanh · β 1"
    two = write_run(tmp_path, summary(), target="unit", head="sigmoid")
    label = results.labels(results.load(tmp_path).finals)
    assert label[one] == "zscore · tanh"
    assert label[two] == "zscore→unit · sigmoid"


def test_an_options_version_is_named_only_where_runs_of_it_have_several(tmp_path):
    newer = {"head": "tanh_standardized", "versions": {"head": 2}}
    ids = [write_run(tmp_path, summary()), write_run(tmp_path, summary(), **newer)]
    assert results.load(tmp_path, ids).finals["other"].tolist() == ["", ""]
    ids.append(write_run(tmp_path, summary(), head="tanh_standardized"))
    expected = ["versions.head=1", "versions.head=2", "versions.head=1"]
    assert results.load(tmp_path, ids).finals["other"].tolist() == expected


def test_settings_without_a_column_are_named_where_they_differ(tmp_path):
    ids = [
        write_run(tmp_path, summary(), model__latent=4, model__widths=[4, 8]),
        write_run(tmp_path, summary(), model__latent=16, model__widths=[4, 8, 16]),
    ]
    loaded = results.load(tmp_path, ids)
    expected = ["latent=4 widths=[4,8]", "latent=16 widths=[4,8,16]"]
    assert loaded.finals["other"].tolist() == expected
    assert results.labels(loaded.finals) == dict(zip(ids, expected, strict=True))
    assert any("widths=[4,8,16]" in line for line in printed(loaded))


def test_a_warm_up_that_follows_from_the_steps_is_not_said_beside_them(tmp_path):
    for steps in (100, 200):
        write_run(tmp_path, summary(), train__steps=steps, train__lr_warmup="auto")
    loaded = results.load(tmp_path)
    assert sorted(loaded.finals["other"]) == ["steps=100", "steps=200"]
    write_run(tmp_path, summary(), train__steps=100, train__lr_warmup=3)
    loaded = results.load(tmp_path)
    assert "steps=100 lr_warmup=3" in set(loaded.finals["other"])


def test_table_leaves_out_what_is_the_same(tmp_path):
    write_run(tmp_path, summary())
    numbers = [name for name, _ in results.NUMBERS.values()]
    numbers = [name for name in numbers if not name.startswith("test")]  # none has them
    frame = results.table(results.load(tmp_path))
    assert frame.columns.tolist() == ["norm", "head", "beta", *numbers, "run"]
    write_run(tmp_path, None, target="unit", reduction="mean", seed=3)
    frame = results.table(results.load(tmp_path))
    assert frame.columns.tolist() == [
        *("norm", "target", "head", "reduction", "beta", "seed"),
        *(name for name, _ in results.NUMBERS.values() if name != "test bits/dim"),
        "status",
        "run",
    ]


def test_printed_digits(tmp_path):
    capped = write_run(tmp_path, summary())  # 18.42 dB under a cap of 18.7
    free = write_run(tmp_path, summary(**cap(None), implied_sigma=4.81), head="linear")
    far = write_run(tmp_path, summary(**cap(18.73)), head="hardtanh")
    lines = printed(results.load(tmp_path, [capped, free, far]), width=120)
    cells = [line.split() for line in lines[2:5]]
    shared = ["5.12", "4.568", "12.3", "3.2", "3", "2"]
    short = [run_id[-8:] for run_id in (capped, free, far)]
    assert cells[0] == ["zscore", "tanh", "1", "48", "18.70", "*18.42", *shared, short[0]]
    assert cells[1] == ["zscore", "linear", "1", "4.8", "–", "18.42", *shared, short[1]]
    assert cells[2] == [
        "zscore",
        "hardtanh",
        "1",
        "48",
        "18.73",
        "18.42",
        *shared,
        short[2],
    ]
    caption = " ".join(lines[5:])
    assert "within 0.3 dB of the cap" in caption
    assert "pred.: a linear VAE at its optimum" in caption


def test_a_narrow_table_leaves_predictions_out(tmp_path):
    write_run(tmp_path, summary())
    lines = printed(results.load(tmp_path), width=84)
    assert max(map(len, lines)) <= 84
    assert "12.3" in "\n".join(lines)
    assert "pred." not in "\n".join(lines)


def test_a_narrow_table_says_once_what_all_runs_share(tmp_path):
    write_run(tmp_path, summary())
    write_run(tmp_path, summary(), head="linear")
    lines = printed(results.load(tmp_path), width=60)
    assert max(map(len, lines)) <= 60
    text = " ".join(" ".join(lines).split())
    assert "all: norm zscore, beta 1, sigma (8-bit) 48" in text
    assert "pred. KL 3.2" in text


@pytest.mark.parametrize("width", [40, 50, 60, 80, 120])
def test_no_number_is_cut_on_any_terminal(tmp_path, width):
    for head in ("tanh", "tanh_standardized"):
        for seed, psnr in enumerate((18.42, 17.15)):
            ended = summary()
            ended["final"] |= {"val/psnr": psnr}
            write_run(tmp_path, ended, head=head, seed=seed)
    lines = printed(results.load(tmp_path), width=width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert text.count("*18.42") == 2
    assert text.count(" 17.15") == 2
    # of the two seeds, 0.635 from their mean: half an interval is tan(0.475 pi) * 0.635
    assert text.count("17.79 ±8.07") == 2 or text.count("17.78 ±8.07") == 2
    assert "…" not in text


def test_the_table_as_a_file_has_the_exact_numbers(tmp_path):
    run_id = write_run(tmp_path, summary())
    write_run(tmp_path, summary(**cap(None)), head="linear")
    path = tables.save_table(results.load(tmp_path), tmp_path)
    assert path == tmp_path / "table.csv"
    read = pd.read_csv(path, dtype={"beta": str, "run": str})
    expected = results.table(results.load(tmp_path))
    pd.testing.assert_frame_equal(read, expected, check_dtype=False)
    assert read["run"].tolist()[1] == run_id[-8:]
    assert read["calibrated bits/dim"].tolist() == [4.5678] * 2


def test_what_follows_from_the_data_set_is_not_said_beside_it(tmp_path):
    sets = {
        "mnist": {"val_images": 100},
        "npz": {"val_images": 200, "path": "a.npz", "test_images": 50},
    }
    for name, more in sets.items():
        for latent in (4, 8):
            data = {"name": name, "cache": "c", **more}
            write_run(tmp_path, summary(), data=data, model__latent=latent)
    loaded = results.load(tmp_path)
    assert sorted(loaded.finals["other"]) == [
        *("latent=4 mnist", "latent=4 npz", "latent=8 mnist", "latent=8 npz")
    ]
    assert {*results.data_sets(loaded.runs)} == {"mnist", "npz"}
    assert "2 data sets (" in results.mixed(loaded)
    assert any("compare numbers only" in line for line in printed(loaded))
    data = {"name": "npz", "cache": "c", "val_images": 7, "path": "b.npz", "test_images": 9}
    write_run(tmp_path, summary(), data=data)
    named = {*results.data_sets(results.load(tmp_path).runs)}
    assert named == {"mnist", "npz path=a.npz", "npz path=b.npz"}


def test_one_data_set_is_not_mixed(tmp_path):
    write_run(tmp_path, summary())
    write_run(tmp_path, summary(), data__cache="elsewhere", seed=1)
    assert results.mixed(results.load(tmp_path)) is None


def test_runs_of_other_images_at_the_same_place_are_told_apart(tmp_path):
    for seed, images in enumerate(("aaaaaaaa00000000", "aaaaaaaa00000000", "bbbbbbbb1")):
        write_run(tmp_path, summary(images=images), seed=seed)
    write_run(tmp_path, summary(), seed=3)  # of an earlier version, which stated none
    loaded = results.load(tmp_path)
    told = loaded.finals.set_index("seed")["other"].to_dict()
    assert told == {0: "images=aaaaaaaa", 1: "images=aaaaaaaa", 2: "images=bbbbbbbb", 3: ""}
    assert "3 data sets (" in results.mixed(loaded)
    means = over_seeds(loaded.finals)
    assert sorted(means["seeds"]) == [1, 1, 2]


def test_a_copy_of_a_run_is_not_another_seed(tmp_path):
    run_ids = [write_run(tmp_path, summary(), seed=seed) for seed in range(3)]
    shutil.copytree(tmp_path / run_ids[0], tmp_path / "a copy")
    loaded = results.read(tmp_path)
    assert sorted(loaded.finals["run_id"]) == sorted(run_ids)
    assert loaded.skipped == {"a copy": f"copy of {run_ids[0]}"}
    assert results.left_out(loaded) == [f"left out 1 run: a copy (copy of {run_ids[0]})"]
    # alone, by whatever name, it is the run
    shutil.rmtree(tmp_path / run_ids[0])
    assert "a copy" in results.read(tmp_path).finals["run_id"].tolist()
    # two whose names were exchanged are two runs
    (tmp_path / run_ids[1]).rename(tmp_path / "held")
    (tmp_path / run_ids[2]).rename(tmp_path / run_ids[1])
    (tmp_path / "held").rename(tmp_path / run_ids[2])
    assert len(results.read(tmp_path).finals) == 3


def test_several_sweeps_are_read_as_one(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    shared = write_run(a, summary())
    alone = write_run(b, summary(), seed=1)
    both = results.read_all([a, b, a])
    assert both.finals["run_id"].tolist() == [shared, alone]
    assert both.finals["other"].tolist() == ["", ""]
    assert [run.folder for run in both.runs] == [a / shared, b / alone]
    write_run(b, summary())
    both = results.read_all([a, b])
    assert {*both.finals["run_id"]} == {f"a/{shared}", f"b/{alone}", f"b/{shared}"}
    assert sorted(both.finals["other"]) == ["sweep=a", "sweep=b", "sweep=b"]
    assert len({*results.labels(both.finals).values()}) == 3
    with pytest.raises(UserError, match="no folder"):
        results.read_all([a, tmp_path / "absent"])


def test_theory_is_the_predicted_curve(tmp_path):
    with_curve = write_run(tmp_path, summary())
    write_run(tmp_path, None, seed=1)
    theory = results.load(tmp_path).theory
    assert theory["run_id"].tolist() == [with_curve] * 3
    assert theory["kl"].tolist() == [0.0, 1.5, 4.0]
    assert theory["psnr"].tolist() == [2.0, 4.0, 7.0]


def test_a_learned_noise_is_shown_where_none_is_implied(tmp_path):
    ended = summary(implied_sigma=None)
    ended["final"] |= {"val/sigma": 23.4}
    write_run(tmp_path, ended, likelihood="gaussian_learned")
    write_run(tmp_path, summary(), seed=1)
    shown = results.table(results.load(tmp_path))
    assert sorted(shown["sigma (8-bit)"]) == [23.4, 48.3]
    assert sorted(shown["likelihood"]) == ["gaussian_learned", "mse"]


def test_the_widest_table_fits_100_columns(tmp_path):
    ended = summary(status="diverged", diverged_at=20, implied_sigma=12345.6)
    wide = {"norm": "zscore_global", "target": "minus1_1", "reduction": "pixel_mean"}
    normalized = {"name": "normalized", "beta_norm": 0.015}
    write_run(tmp_path, ended, **wide, head="tanh_standardized", beta=normalized)
    write_run(tmp_path, summary(), seed=12)
    lines = printed(results.load(tmp_path))
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    for number in ("12346", "18.70", "*18.42", "12.3", "4.568"):
        assert number in text
    assert "…" not in text


def test_no_torch_and_no_pyplot():
    code = (
        "import sys, vae_sweep.records.results, vae_sweep.reporting.overview;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib.pyplot')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_frames_are_plain(tmp_path):
    write_run(tmp_path, summary())
    loaded = results.load(tmp_path)
    assert isinstance(loaded.finals["seed"].dtype, np.dtype)
    assert pd.api.types.is_float_dtype(loaded.curves["val/kl"])
    assert pd.api.types.is_float_dtype(loaded.finals["val/kl"])


def test_results_are_shown_in_a_line(tmp_path):
    write_run(tmp_path, summary())
    write_run(tmp_path, summary(status="diverged", diverged_at=3), seed=1)
    shown = repr(vae_sweep.results(tmp_path))
    assert shown == "<Results of runs: 1 finished, 1 diverged; 4 rows>"
    assert {"load", "results"} <= {*dir(vae_sweep)}
