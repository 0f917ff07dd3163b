"""Bundles: what is in them, that scores follow from distances, that every change is found, and that hostile ones do nothing."""

from __future__ import annotations

import io
import json
import re
import struct
import sys
import time
import tracemalloc
import zipfile
from hashlib import sha256

import fake_bundles
import numpy as np
import pytest
from click.testing import CliRunner
from fake_bundles import BLUE, RED, arrays, contents, packed, rewritten

from synthbench.cli import app
from synthbench.cli.app import cli
from synthbench.data import pixels
from synthbench.data.pairs import open_pairs
from synthbench.leaderboard import bundle, recompute, show, verify
from synthbench.leaderboard.archive import Altered, unpacked
from synthbench.types import UserError

AVG = "verification/avg/accuracy"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, one of another generator, the real set, and a comparison of the three."""
    root = tmp_path_factory.mktemp("runs")
    results = [fake_bundles.make(root, name, tag=tag) for tag, name in enumerate(("real", "maker", "other"), 1)]
    fake_bundles.make_comparison(root, results)
    return root, results


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "run": bundle.bundle("maker", runs[0], folder / "run.zip"),
        "weights": bundle.bundle("maker", runs[0], folder / "weights.zip", weights=True),
        "comparison": bundle.bundle("both", runs[0], folder / "comparison.zip"),
    }


def checked(path) -> list[verify.Check]:
    with unpacked(path) as found:
        return verify.checks(found)


def differing(path) -> set[str]:
    return {check.what for check in checked(path) if check.agrees is False}


# ------------------------------------------------------------------------------------------------------------ what is in it


@pytest.mark.parametrize("kind", ["run", "weights", "comparison"])
def test_the_first_file_names_all_others(made, kind):
    files = contents(made[kind])
    about = json.loads(files.pop("bundle.json"))
    assert next(iter(contents(made[kind]))) == "bundle.json" and list(files) == sorted(files)
    assert about["files"] == {name: sha256(data).hexdigest() for name, data in files.items()}
    assert about["bundle"] == 1 and about["kind"] == ("comparison" if kind == "comparison" else "run")
    assert any("weights.safetensors" in name for name in files) == (kind == "weights")
    assert not [name for name in files if "leakage" in name or name.endswith(".u8")]


def test_the_same_run_gives_the_same_bytes_without_this_machine(runs, made, tmp_path):
    again = bundle.bundle("maker", runs[0], tmp_path / "again.zip")
    assert again.read_bytes() == made["run"].read_bytes()
    assert str(runs[0]).encode() not in made["run"].read_bytes() and str(runs[0]).encode() not in made["comparison"].read_bytes()
    with zipfile.ZipFile(again) as packed_:
        assert {entry.date_time for entry in packed_.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with pytest.raises(UserError, match="exists"):
        bundle.bundle("maker", runs[0], again)


def test_what_is_gone_is_not_passed_on(runs, tmp_path):
    result = fake_bundles.make(tmp_path, "gone", tag=7)
    key = next(row["key"] for row in reversed(result["stages"]) if row["name"] == "evaluate")
    next((tmp_path / "stages/evaluate" / key / "pairs").iterdir()).unlink()
    with pytest.raises(UserError, match=r"evaluate of gone-tiny-7 is not there any more; the command that made the run makes it again"):
        bundle.bundle("gone", tmp_path, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.parametrize(
    ("generator", "photographs", "told", "real", "colours"),
    [
        ("maker", None, "", "embedded world", {BLUE}),
        ("copier", 2, "the first two of each person", "casia", {BLUE}),
        ("folder", None, "unknown", "casia", None),
        ("copier", 10, "all", "casia", None),
        ("real", None, "", "casia", None),
        ("real", None, "", "embedded world", {BLUE}),
    ],
)
def test_no_photograph_is_passed_on(tmp_path, generator, photographs, told, real, colours):
    """Photographs are red here; a set that does not tell which of its images are some has no sheet."""
    fake_bundles.make(tmp_path, generator, photographs=photographs, told=told, real=real, names=("pairs-a",))
    files = contents(bundle.bundle("latest", tmp_path, tmp_path / "x.zip"))
    sheets = [data for name, data in files.items() if name.endswith(".png")]
    assert len(sheets) == (colours is not None)
    for sheet in sheets:
        image = pixels.decode(sheet, "sheet")
        assert image.shape == (6 * 32, 8 * 32, 3)
        assert {tuple(colour) for colour in image.reshape(-1, 3).tolist()} == colours and RED not in colours


# -------------------------------------------------------------------------------------------------- scores from distances


def by_hand(distance: np.ndarray, same: np.ndarray, folds: int = 10) -> tuple[list[float], np.ndarray]:
    """The published loop: accuracy of each fold at the threshold that is best on the others, and right or wrong of each pair."""
    parts, accuracies, right = np.array_split(np.arange(len(same)), folds), [], np.zeros(len(same), bool)
    for part in parts:
        others = np.setdiff1d(np.arange(len(same)), part)
        best = max(np.arange(0, 4, 0.01), key=lambda t: ((distance[others] < t) == same[others]).mean())  # the first of equals
        right[part] = (distance[part] < best) == same[part]
        accuracies.append(right[part].mean())
    return accuracies, right


def test_scores_are_those_of_a_plain_loop(runs, made):
    with unpacked(made["run"]) as found:
        run = verify._Run(found, found.results[0], "cpu")
        for folder in (*run.own, *run.real):
            assert not list(recompute.settle(folder, run.sets, 10))
        scores = recompute.scores(run.own[0], run.real[0], run.sets.values(), run.rules, 0)
        tables = {side: {p.stem: arrays(p.read_bytes()) for p in (place / "pairs").iterdir()} for side, place in
                  (("own", run.own[0]), ("real", run.real[0]))}  # fmt: skip
    right, averages = {}, {}
    for side, pairs in tables.items():
        for name, table in pairs.items():
            accuracies, right[side, name] = by_hand(table["distance"], table["same"])
            averages[side, name] = 100 * np.mean(accuracies)
            if side == "own":
                p, n = right[side, name].mean(), len(table["same"])
                score = scores[f"verification/{name}/accuracy"]
                assert score.value == pytest.approx(averages[side, name]) and score.stderr == pytest.approx(100 * (p * (1 - p) / n) ** 0.5)
                limit = sorted(table["distance"][~table["same"]])[int(0.1 * (~table["same"]).sum())]
                accepted = 100 * np.mean([d < limit for d in table["distance"][table["same"]]])
                if (~table["same"]).sum() * 0.1 >= 10:
                    assert scores[f"verification/{name}/tar_at_far_1e-1"].value == pytest.approx(accepted)
    own = np.mean([averages["own", name] for name in tables["own"]])
    assert scores[AVG].value == pytest.approx(own)
    gap = scores["gap_to_real/points"]
    assert gap.value == pytest.approx(np.mean([averages["real", name] for name in tables["own"]]) - own)
    lost = [100 * (right["real", name].astype(float) - right["own", name]) for name in tables["own"]]
    assert gap.stderr == pytest.approx(np.sqrt(sum(each.var() / len(each) for each in lost)) / 2)
    table = tables["own"]["pairs-b"]
    for number, group in enumerate("ab"):
        rows = np.arange(240) // 2 % 2 == number
        value = 100 * np.mean(by_hand(table["distance"][rows], table["same"][rows])[0])
        assert scores[f"groups/pairs-b/accuracy/{group}"].value == pytest.approx(value)
    floors = [f"untrained/{name}/accuracy" for name in tables["own"]]
    assert scores["untrained/avg/accuracy"].value == pytest.approx(np.mean([scores[name].value for name in floors]))


def test_an_honest_bundle_agrees_and_says_what_was_not_checked(made):
    found = checked(made["run"])
    assert not [check for check in found if check.agrees is False]
    agreed = {check.what for check in found if check.agrees}
    assert {
        f"{AVG}",
        f"real: {AVG}",
        "gap_to_real/points",
        "protocol",
        "recipe, seed 0",
        "key of the real set",
    } <= agreed
    assert {"groups/pairs-b/fmr_ratio", "untrained/avg/accuracy", "verification/pairs-b/tar_at_far_1e-1"} <= agreed
    told = " ".join(show.unchecked(found))
    assert "distances: the recognizers are not in the bundle" in told and "key of the benchmarks: no data or weights are called" in told


def test_seeds_are_told_apart(tmp_path):
    fake_bundles.make(tmp_path, seeds=2, names=("pairs-a",))
    found = checked(bundle.bundle("maker", tmp_path, tmp_path / "x.zip"))
    assert not [check for check in found if check.agrees is False]
    assert {f"{side}{AVG}, seed {seed}" for side in ("", "real: ") for seed in (0, 1)} < {check.what for check in found if check.agrees}
    wrong = rewritten(tmp_path / "x.zip", tmp_path / "y.zip", lambda files: raise_score(files, seed=1))
    assert differing(wrong) == {f"{AVG}, seed 1"}


def test_a_comparison_agrees_and_its_differences_are_made_again(runs, made, tmp_path):
    found = checked(made["comparison"])
    assert not [check for check in found if check.agrees is False]
    assert {f"other 6x10 − real: {AVG}", "maker 6x10: gap_to_real/points"} <= {check.what for check in found if check.agrees}

    def change(files):
        told = json.loads(files["comparisons/both/comparison.json"])
        told["differences"][0]["p_holm"] = 1e-9
        told["rows"][1]["cells"][AVG]["low"] -= 5
        files["comparisons/both/comparison.json"] = json.dumps(told).encode()

    wrong = differing(rewritten(made["comparison"], tmp_path / "x.zip", change))
    assert len(wrong) == 2 and {f"maker 6x10: {AVG}, low"} < wrong and any(what.endswith(", p_holm") for what in wrong)


# ------------------------------------------------------------------------------------------------------------- alterations


def raise_score(files, seed=0):
    place = next(name for name in files if name.endswith("run.json"))
    result = json.loads(files[place])
    next(score for score in result["scores"] if (score["metric"], score["seed"]) == (AVG, seed))["value"] += 5.0
    files[place] = json.dumps(result).encode()


def own_pairs(files, name="pairs-a"):
    return next(place for place in sorted(files) if "scores-maker" in place and place.endswith(f"pairs/{name}.npz"))


def change_arrays(files, **new):
    place = own_pairs(files)
    table = arrays(files[place])
    files[place] = packed({**table, **{name: change(table) for name, change in new.items()}})


def closer(table):
    """Two genuine pairs in three are no longer far."""
    return np.where(table["same"] & (np.arange(len(table["same"])) % 3 > 0), 0.0, table["distance"])


def drop_a_score(files):
    place = next(name for name in files if name.endswith("run.json"))
    result = json.loads(files[place])
    result["scores"] = [score for score in result["scores"] if score["metric"] != "verification/pairs-a/accuracy"]
    files[place] = json.dumps(result).encode()


def other_recipe(files):
    place = next(name for name in files if name.endswith("run.json"))
    result = json.loads(files[place])
    result["config"]["recipes"]["demo"]["epochs"] = 3
    files[place] = json.dumps(result).encode()


def a_score_twice(files):
    place = next(name for name in files if name.endswith("run.json"))
    result = json.loads(files[place])
    result["scores"] = [{**score, "value": 99.0} for score in result["scores"] if score["metric"] == AVG] + result["scores"]
    files[place] = json.dumps(result).encode()


ALTERED = {
    "a score twice": (a_score_twice, "scores"),
    "a score": (raise_score, f"{AVG}"),
    "a distance": (lambda files: change_arrays(files, distance=closer), "verification/pairs-a/accuracy"),
    "right and wrong": (lambda files: change_arrays(files, correct=lambda table: table["correct"] | True), "right and wrong of pairs-a"),
    "a label": (lambda files: change_arrays(files, same=lambda table: np.roll(table["same"], 1)), "pairs of pairs-a"),
    "the pairs of another": (lambda files: files.update({own_pairs(files): files[own_pairs(files, "pairs-b")]}), "the result"),
    "a score left out": (drop_a_score, "verification/pairs-a/accuracy"),
    "another recipe": (other_recipe, "recipe, seed 0"),
    "a distance that is none": (lambda files: change_arrays(files, distance=lambda table: table["distance"] * np.nan), "the result"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_every_change_is_found(made, tmp_path, what):
    change, expected = ALTERED[what]
    with pytest.raises(Altered, match=r"altered after it was made: .* not as its bundle.json says"):
        checked(rewritten(made["run"], tmp_path / "plain.zip", change, digests=False))
    assert expected in differing(rewritten(made["run"], tmp_path / "told.zip", change))


def test_a_changed_digest_is_found(made, tmp_path):
    def change(files):
        about = json.loads(files["bundle.json"])
        about["files"][own_pairs(files)] = "0" * 64
        files["bundle.json"] = json.dumps(about).encode()

    with pytest.raises(Altered, match=r"pairs-a\.npz not as its"):
        checked(rewritten(made["run"], tmp_path / "x.zip", change, digests=False))


@pytest.mark.parametrize("kind", ["run", "weights"])
def test_a_consistent_forgery_is_found_by_the_recognizers_alone(runs, made, tmp_path, monkeypatch, kind):
    """Whoever changes distances, scores and digests alike is believed, and it is said that nobody can tell; with the networks he is not."""
    sets = {path.name: open_pairs(path) for path in (runs[0] / "stages/benchmarks").glob("*/*") if path.is_dir()}
    monkeypatch.setattr(verify, "_benchmark", lambda name, resolution: sets[name])

    def forge(files):
        change_arrays(files, distance=closer)
        with unpacked(fake_bundles.write(files, tmp_path / "half.zip")) as found:
            run = verify._Run(found, found.results[0], "cpu")
            for folder in (*run.own, *run.real):
                list(recompute.settle(folder, run.sets, 10))
            again = recompute.scores(run.own[0], run.real[0], run.sets.values(), run.rules, 0)
            files[own_pairs(files)] = (run.own[0] / "pairs" / "pairs-a.npz").read_bytes()
        place = next(name for name in files if name.endswith("run.json"))
        result = json.loads(files[place])
        for score in (score for score in result["scores"] if score["seed"] == 0 and score["metric"] in again):
            score |= {"value": again[score["metric"]].value, "stderr": again[score["metric"]].stderr}
        files[place] = json.dumps(result).encode()

    forged = rewritten(made[kind], tmp_path / "forged.zip", forge)
    with unpacked(forged) as found:
        before = next(score["value"] for score in found.results[0]["scores"] if score["metric"] == AVG)
    with unpacked(made[kind]) as found:
        assert before > 5 + next(score["value"] for score in found.results[0]["scores"] if score["metric"] == AVG)
    if kind == "run":
        assert differing(forged) == set() and "distances" in {check.what for check in checked(forged) if check.agrees is None}
    else:
        honest = checked(made[kind])
        assert not [check for check in honest if check.agrees is False]
        assert {check.what for check in honest if check.agrees and "distances" in check.what} == {
            f"{side}distances of {name}" for name in sets for side in ("", "real: ")
        }
        assert "verification/pairs-a/xnorm" in {check.what for check in honest if check.agrees}
        assert differing(forged) == {"distances of pairs-a"}


def test_other_weights_are_found(made, tmp_path):
    def change(files):
        nets = [name for name in sorted(files) if name.endswith("weights.safetensors")]
        files[nets[0]] = files[nets[-1]]

    assert {what.removeprefix("real: ") for what in differing(rewritten(made["weights"], tmp_path / "x.zip", change))} == {"weights"}


# ----------------------------------------------------------------------------------------------------------------- hostile


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], pack: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(out := io.BytesIO(), "w", pack) as archive_:
        for entry, data in entries:
            archive_.writestr(entry, data)
    return out.getvalue()


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, 0o120777 << 16
    return entry


def claims(data: bytes, size: int) -> bytes:
    """A zip whose only entry says it has `size` bytes."""
    at = data.rindex(b"PK\x01\x02")
    return data[: at + 20] + struct.pack("<II", size, size) + data[at + 28 :]


def commented(data: bytes) -> bytes:
    return data[:-2] + b"\1\0x"


RUN = "results/a/run.json"
HOSTILE = {
    "no zip": (b"PK\x03\x04 and so on", "its end is not that of a bundle"),
    "nothing": (zipped(), "has no bundle.json"),
    "up": (zipped(("../run.json", b"x")), "is no file of a bundle"),
    "up inside": (zipped(("results/../../run.json", b"x")), "is no file of a bundle"),
    "absolute": (zipped(("/etc/run.json", b"x")), "is no file of a bundle"),
    "another drive": (zipped(("results/C:\\x/run.json", b"x")), "is no file of a bundle"),
    "hidden": (zipped(("results/.x/run.json", b"x")), "is no file of a bundle"),
    "a program": (zipped(("results/a/run.py", b"x")), "is no file of a bundle"),
    "a folder": (zipped(("results/a/", b"")), "is no file of a bundle"),
    "a link": (zipped((link(RUN), b"/etc/passwd")), "is a link"),
    "twice": (zipped((RUN, b"x"), (RUN.replace("a/", "A/"), b"y")), "two files are called"),
    "compressed": (zipped((RUN, bytes(10**6)), pack=zipfile.ZIP_DEFLATED), "stored as they are"),
    "too large": (claims(zipped((RUN, b"x")), 2**27), "at most"),
    "larger than it is": (claims(zipped((RUN, b"x")), 2**20), "no whole bundle"),
    "too many": (zipped(*((f"results/a{i}/run.json", b"") for i in range(5001))), "more than any bundle"),
    "a long list": (zipped(("x" * 65_000, b""), *((f"{i}" + "x" * 65_000, b"") for i in range(40))), "more than any bundle"),
    "a comment": (commented(zipped((RUN, b"x"))), "its end is not that of a bundle"),
    "no JSON": (zipped(("bundle.json", b"{")), "no whole bundle"),
    "deep JSON": (zipped(("bundle.json", b"[" * 100_000)), "nests too deep"),
    "of tomorrow": (zipped(("bundle.json", b'{"bundle": 2}')), "version 2; this synthbench reads version 1"),
    "without its parts": (zipped(("bundle.json", b'{"bundle": 1}')), "its bundle.json is not whole"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_zip_is_refused_before_there_is_room_for_it(tmp_path, what):
    data, reason = HOSTILE[what]
    (tmp_path / "x.zip").write_bytes(data)
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=re.escape(reason)), unpacked(tmp_path / "x.zip"):
            pass
        assert tracemalloc.get_traced_memory()[1] < 3e7
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 5
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def npz(head: bytes, **more: bytes) -> bytes:
    """An .npz whose distances are the bytes `head`."""
    good = zipfile.ZipFile(io.BytesIO(packed({name: np.zeros(20, kind) for name, kind in KINDS.items()})))
    parts = {entry.filename: good.read(entry) for entry in good.infolist()} | {"distance.npy": head} | more
    return zipped(*parts.items(), pack=zipfile.ZIP_DEFLATED)


KINDS = {"distance": "f8", "same": "?", "fold": "i8", "threshold": "f8", "correct": "?"}


def saved(array: np.ndarray) -> bytes:
    np.save(out := io.BytesIO(), array, allow_pickle=True)
    return out.getvalue()


def header(shape: str, kind: str = "<f8") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


ARRAYS = {
    "objects": (npz(saved(np.array([print] * 20, object))), "which it cannot be"),
    "a header of 8 TB": (npz(header("(1000000000000,)")), "which it cannot be"),
    "a bomb": (npz(saved(np.zeros(4_000_000))), "unpack to more than"),
    "too many pairs": (npz(saved(np.random.default_rng(0).random(1_000_001))), "values; one for each of 10 to"),
    "another array": (npz(saved(np.zeros(20)), **{"x.npy": saved(np.zeros(20))}), "other arrays than it should"),
    "two lengths": (npz(saved(np.zeros(21))), "values; one for each"),
    "no array": (npz(b"junk"), "no whole bundle"),
    "no npz": (b"junk", "no whole bundle"),
}


@pytest.mark.parametrize("what", ARRAYS)
def test_hostile_arrays_are_refused_before_there_is_room_for_them(made, tmp_path, what):
    data, reason = ARRAYS[what]
    if zipfile.is_zipfile(io.BytesIO(data)):
        data = zipped(*(contents(io.BytesIO(data)) | {"digest.npy": saved(np.array("d"))}).items(), pack=zipfile.ZIP_DEFLATED)
    path = rewritten(made["run"], tmp_path / "x.zip", lambda files: files.update({own_pairs(files): data}))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=re.escape(reason)), unpacked(path):
            pass
        assert tracemalloc.get_traced_memory()[1] < 6e7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("part", "setting", "number"), [("verification", "folds", 10**9), ("groups", "draws", 10**9), ("verification", "far", [0.1] * 10**4)]
)
def test_settings_that_would_take_hours_are_refused(made, tmp_path, part, setting, number):
    def change(files):
        place = next(name for name in files if name.endswith("run.json"))
        result = json.loads(files[place])
        result["config"]["protocol"]["evaluators"][part][setting] = number
        files[place] = json.dumps(result).encode()

    found = [check for check in checked(rewritten(made["run"], tmp_path / "x.zip", change)) if check.agrees is False]
    assert [check.what for check in found] == ["the result"] and "at most" in found[0].found


# ------------------------------------------------------------------------------------------------------------ commands


def test_the_commands(runs, made, tmp_path, monkeypatch):
    def run(*words):
        return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)

    done = run("bundle", "maker", "-o", tmp_path / "x.zip", "--runs", runs[0])
    assert done.exit_code == 0 and (tmp_path / "x.zip").read_bytes() == made["run"].read_bytes()
    done = run("verify", tmp_path / "x.zip")
    assert done.exit_code == 0 and "that were checked agree;" in done.output and "nobody can tell from a file" in done.output
    assert max(map(len, done.stdout.splitlines())) <= 80
    found = json.loads(run("verify", tmp_path / "x.zip", "--json").stdout)
    assert found["agrees"] and found["sha256"] == sha256((tmp_path / "x.zip").read_bytes()).hexdigest() and len(found["checks"]) > 50
    wrong = rewritten(made["run"], tmp_path / "y.zip", raise_score)
    done = run("verify", wrong)
    assert done.exit_code == 1 and "1 of " in done.output and "DIFFERS" in done.output
    assert not json.loads(run("verify", wrong, "--json").stdout)["agrees"]
    for path, code in ((tmp_path / "x.zip", 0), (wrong, 1), (rewritten(made["run"], tmp_path / "z.zip", raise_score, digests=False), 1)):
        monkeypatch.setattr(sys, "argv", ["synthbench", "verify", str(path)])
        assert app._guarded() == code


def test_what_is_not_a_run_or_comparison_is_told(runs, tmp_path):
    with pytest.raises(UserError, match=r"no run or comparison 'x'"):
        bundle.bundle("x", runs[0], tmp_path / "x.zip")
    with pytest.raises(UserError, match="does not exist"), unpacked(tmp_path / "none.zip"):
        pass
