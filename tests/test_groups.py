"""Fairness by groups: accuracies against loops, published tables by hand, groups at random, and what is too small for a number."""

from __future__ import annotations

import statistics
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from fake_subject import Faces, by_name, context, subject

from synthbench.config import Layer, build
from synthbench.evaluators.groups import LEAST, Grouped, Groups, GroupsConfig, deviation, skewed_error_ratio
from synthbench.evaluators.pairs import kfold
from synthbench.types import Skipped, UserError

THRESHOLDS = np.arange(0, 4, 0.01)


def pairs(n, seed, worse=0.0):
    """Distances of n pairs, genuine and impostor in turn; `worse`: genuine pairs lie that much further apart."""
    random = np.random.default_rng(seed)
    same = np.arange(n) % 2 == 0
    return np.where(same, random.normal(1.1 + worse, 0.35, n), random.normal(1.7, 0.25, n)).clip(0, 4), same


def leave(folder, results):
    """What the evaluator verification leaves: distance and same of each benchmark."""
    for name, (distance, same) in results.items():
        kfold(distance, same).save(folder, name)


def measured(tmp_path, sets=None, benchmarks=(), seed=0, baseline=None):
    seen = subject(Faces([0, 1]), None, benchmarks=list(benchmarks), baseline=baseline)
    return by_name(Groups(build(GroupsConfig, Layer({"sets": sets or {}, "draws": 40}))).evaluate(seen, context(tmp_path, seed)))


def one_by_one(distances, sames, folds=10):
    """(own accuracy, shared accuracy, FMR, FNMR) of each group, one fold, threshold and pair at a time, in percent."""
    blocks = [np.array_split(np.arange(len(same)), folds) for same in sames]

    def best(groups, fold):
        rows = [(g, np.concatenate([block for k, block in enumerate(blocks[g]) if k != fold])) for g in groups]
        counts = [sum(((distances[g][own] < threshold) == sames[g][own]).sum() for g, own in rows) for threshold in THRESHOLDS]
        return THRESHOLDS[int(np.argmax(counts))]

    found, everybody = [], range(len(sames))
    shared_threshold = [best(everybody, fold) for fold in range(folds)]
    for g in everybody:
        own, shared, wrong = [], [], {True: [], False: []}
        for fold in range(folds):
            threshold = best([g], fold)
            own.append(np.mean([(distances[g][i] < threshold) == sames[g][i] for i in blocks[g][fold]]))
            said = [(distances[g][i] < shared_threshold[fold], sames[g][i]) for i in blocks[g][fold]]
            shared.append(np.mean([says == truth for says, truth in said]))
            for says, truth in said:
                wrong[bool(truth)].append(says != truth)
        found.append([100 * np.mean(part) for part in (own, shared, wrong[False], wrong[True])])
    return np.array(found)


def test_every_number_is_that_of_the_loop(tmp_path):
    sizes = {"north": (140, 0.0), "south": (163, 0.3), "east": (120, 0.1)}
    results = {f"set-{name}": pairs(n, seed, worse) for seed, (name, (n, worse)) in enumerate(sizes.items())}
    leave(tmp_path / "pairs", results)
    scores, skipped = measured(tmp_path, {"faces": {name: f"set-{name}" for name in sizes}})
    wanted = one_by_one(*zip(*results.values()))
    for row, (name, (n, _)) in zip(wanted, sizes.items()):
        metrics = [f"groups/faces/{kind}/{name}" for kind in ("accuracy", "shared_accuracy", "fmr", "fnmr")]
        assert [scores[metric].value for metric in metrics] == pytest.approx(row)
        impostors = n // 2
        assert [scores[metric].n for metric in metrics] == [n, n, impostors, n - impostors]
        share = row[2] / 100
        assert scores[f"groups/faces/fmr/{name}"].stderr == pytest.approx(100 * np.sqrt(share * (1 - share) / impostors))
    for kind, column in (("", 0), ("shared_", 1)):
        accuracy = wanted[:, column]
        assert scores[f"groups/faces/{kind}mean"].value == pytest.approx(accuracy.mean())
        assert scores[f"groups/faces/{kind}std"].value == pytest.approx(accuracy.std(ddof=1))
        assert scores[f"groups/faces/{kind}skewed_error_ratio"].value == pytest.approx((100 - accuracy.min()) / (100 - accuracy.max()))
    for metric, column in (("fmr_ratio", 2), ("fnmr_ratio", 3)):
        assert scores[f"groups/faces/{metric}"].value == pytest.approx(wanted[:, column].max() / wanted[:, column].min())
    assert not skipped


def test_a_benchmark_that_carries_groups_is_as_a_set_of_benchmarks(tmp_path):
    """Interleaved or apart: the order of the pairs within a group is what counts."""
    results = {f"set-{name}": pairs(200, seed) for seed, name in enumerate("ab")}
    leave(tmp_path / "apart" / "pairs", results)
    apart, _ = measured(tmp_path / "apart", {"one": {name: f"set-{name}" for name in "ab"}})
    distance, same = (np.stack(arrays, 1).ravel() for arrays in zip(*results.values()))
    leave(tmp_path / "one" / "pairs", {"one": (distance, same)})
    benchmark = SimpleNamespace(name="one", groups=("a", "b"), group=np.tile([0, 1], 200))
    (tmp_path / "one").mkdir(exist_ok=True)
    whole, _ = measured(tmp_path / "one", benchmarks=[benchmark])
    assert whole == apart


def test_std_and_skewed_error_ratio_are_those_of_the_papers():
    """Of four accuracies such as papers with RFW print: by the standard library, by hand, and to the papers' two digits."""
    printed = np.array([97.37, 95.68, 94.55, 93.87]) / 100
    assert deviation(printed) == pytest.approx(statistics.stdev(printed.tolist()))
    assert skewed_error_ratio(printed) == pytest.approx(6.13 / 2.63)
    assert f"{100 * deviation(printed):.2f} {skewed_error_ratio(printed):.2f}" == "1.53 2.33"
    assert skewed_error_ratio(np.array([0.9, 0.8, 0.6])) == pytest.approx(4)
    assert skewed_error_ratio(np.array([1.0, 0.8])) == float("inf")


def test_groups_that_are_alike_are_as_far_apart_as_groups_at_random_and_others_further(tmp_path):
    alike = [by_sets(tmp_path / f"alike-{seed}", [0, 0, 0, 0], seed) for seed in range(12)]
    apart = by_sets(tmp_path / "apart", [0, 0, 0, 0.5], 99)
    for kind in ("", "shared_"):
        value, chance = (np.mean([scores[f"groups/s/{part}{kind}std"].value for scores in alike]) for part in ("", "by_chance/"))
        assert chance == pytest.approx(value, rel=0.35)
        assert apart[f"groups/s/{kind}std"].value > 3 * apart[f"groups/s/by_chance/{kind}std"].value
        assert apart["groups/s/fnmr_ratio"].value > 2 * apart["groups/s/by_chance/fnmr_ratio"].value
        assert apart[f"groups/s/{kind}skewed_error_ratio"].value > 1.3 * apart[f"groups/s/by_chance/{kind}skewed_error_ratio"].value


def by_sets(folder, worse, seed):
    results = {f"s-{number}": pairs(400, 10 * seed + number, step) for number, step in enumerate(worse)}
    leave(folder / "pairs", results)
    return measured(folder, {"s": {f"g{number}": name for number, name in enumerate(results)}}, seed=seed)[0]


def test_errors_are_the_spread_of_repeated_draws(tmp_path):
    runs = [by_sets(tmp_path / str(seed), [0, 0.3, 0.15], seed) for seed in range(60)]
    metrics = ("accuracy/g1", "mean", "std", "skewed_error_ratio", "fmr/g2", "fmr_ratio")
    for metric, most in zip(metrics, (1.35, 1.35, 1.35, 1.35, 1.35, 1.6)):
        values, errors = (np.array([getattr(scores[f"groups/s/{metric}"], part) for scores in runs]) for part in ("value", "stderr"))
        assert 0.65 < errors.mean() / values.std(ddof=1) < most, metric  # a ratio of groups that are alike errs to the safe side


def test_dealt_groups_keep_their_folds_and_kinds():
    parts = {"a": pairs(107, 1), "b": pairs(250, 2), "c": pairs(60, 3)}
    grouped = Grouped.of("s", parts, 10)
    dealt = grouped.dealt(np.random.default_rng(0))

    def table(group):
        return [[[((group == g) & (grouped.fold == f) & (grouped.same == s)).sum() for s in (0, 1)] for f in range(10)] for g in range(3)]

    assert table(dealt) == table(grouped.group) and (dealt != grouped.group).mean() > 0.3


def test_a_small_group_and_one_without_impostors_have_a_reason_and_no_number(tmp_path):
    small, lonely = pairs(10, 5), (np.full(200, 1.0), np.ones(200, bool))
    results = {"a": pairs(200, 1), "b": pairs(200, 2)}
    distance, same = (np.concatenate(arrays) for arrays in zip(*results.values(), small, lonely))
    benchmark = SimpleNamespace(name="mine", groups=("a", "b", "few", "alone"), group=np.repeat(range(4), (200, 200, 10, 200)))
    leave(tmp_path / "pairs", {"mine": (distance, same)})
    scores, skipped = measured(tmp_path, benchmarks=[benchmark])
    assert f"group few of mine has 5 genuine pairs and 5 of impostors; {LEAST} of each" in skipped["groups/mine/accuracy/few"]
    assert "alone of mine has 200 genuine pairs and 0 of impostors" in skipped["groups/mine/accuracy/alone"]
    assert not [metric for metric in scores if metric.endswith(("few", "alone"))]
    assert scores["groups/mine/mean"].n == 400
    (tmp_path / "both").mkdir()
    leave(tmp_path / "both" / "pairs", results)
    leave(tmp_path / "two" / "pairs", {"mine": tuple(np.concatenate(arrays) for arrays in zip(small, results["a"]))})
    benchmark = SimpleNamespace(name="mine", groups=("few", "a"), group=np.repeat(range(2), (10, 200)))
    scores, skipped = measured(tmp_path / "two", benchmarks=[benchmark])
    assert not scores and "fewer than two groups" in skipped["groups/mine/std"]


def test_a_group_without_an_error_has_no_ratio(tmp_path):
    same = np.arange(200) % 2 == 0
    leave(tmp_path / "pairs", {"a": (np.where(same, 0.5, 2.0), same), "b": pairs(200, 1)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is divided by zero on the way
        scores, skipped = measured(tmp_path, {"s": {"perfect": "a", "other": "b"}})
    assert "group perfect has no wrong pair" in skipped["groups/s/skewed_error_ratio"]
    assert scores["groups/s/accuracy/perfect"].value == 100 and "groups/s/std" in scores


def test_the_floor_is_the_mean_over_networks_that_learnt_nothing_of_the_baseline(tmp_path):
    results = {"a": pairs(200, 1), "b": pairs(200, 2)}
    networks = [{name: pairs(200, 10 * number + place) for place, name in enumerate(results)} for number in (3, 4)]
    leave(tmp_path / "own" / "pairs", results)
    for number, found in enumerate(networks):
        leave(tmp_path / "real" / "untrained" / str(number), found)
    scores, _ = measured(tmp_path / "own", {"s": {"x": "a", "y": "b"}}, baseline=tmp_path / "real")
    mean = np.mean([100 * kfold(*found["b"]).fold_accuracies().mean() for found in networks])
    assert scores["groups/s/untrained_accuracy/y"].value == pytest.approx(mean)


def test_bad_input(tmp_path):
    with pytest.raises(Skipped, match="no benchmark tells groups"):
        measured(tmp_path)
    with pytest.raises(Skipped, match=r"no results of a, b; the evaluator `verification` must run before"):
        measured(tmp_path, {"s": {"x": "a", "y": "b"}})
    for sets, message in (
        ({"s": {"x": "a"}}, "s has 1 group; two are the least"),
        ({"s": {"x": "a", "y": "a"}}, "a benchmark is two groups of s"),
        ({"s": {"x/y": "a", "z": "b"}}, "'x/y' cannot be a name"),
    ):
        with pytest.raises(UserError, match=message):
            build(GroupsConfig, Layer({"sets": sets}))
    asked = Groups(build(GroupsConfig, Layer({"sets": {"rfw": {"x": "rfw-asian", "y": "rfw-afrikan"}}})))
    with pytest.raises(UserError, match=r"sets\.rfw: 'rfw-afrikan' is none of the protocol's benchmarks; did you mean 'rfw-african'"):
        asked.check(["lfw", "rfw-asian", "rfw-african"])
    with pytest.raises(UserError, match="rfw is a benchmark; give the set of groups another name"):
        asked.check(["rfw"])


# ---- from the command to the table ----


@pytest.fixture
def faces_by_group(here, monkeypatch):
    """tiny.yaml with two registered sets of pairs as two groups, and world-groups, half as large."""
    import pickle

    from synthbench.data import pixels, sources
    from synthbench.world import pairs as world

    monkeypatch.setenv("SYNTHBENCH_DATA", str(here / "home"))
    monkeypatch.setitem(world.PAIRS, "world-groups", 800)
    for number, name in enumerate(("my-african", "my-asian")):
        images, left, right, same = world.world_pairs("world-mixed", 16, 120, seed=number)
        files = [pixels.encode(image) for image in images.permute(0, 2, 3, 1).numpy()]
        (here / f"{name}.bin").write_bytes(pickle.dumps(([files[row] for both in zip(left, right) for row in both], same.tolist())))
        sources.add(name, here / f"{name}.bin", "pairs")
    lines = ["extends: tiny.yaml", "name: fair", "benchmarks: [my-african, my-asian, world-groups]", "evaluators:", "  groups:"]
    (here / "fair.yaml").write_text("\n".join([*lines, "    sets: {rfw: {african: my-african, asian: my-asian}}", "    draws: 20"]))
    return here


def test_a_run_has_its_numbers_by_group_and_a_comparison_shows_them(faces_by_group, capsys):
    from pathlib import Path

    from synthbench.pipeline import compare, run
    from synthbench.report import parts
    from synthbench.results import further, record, terminal

    asked = run.Request("procedural", Path("runs"), "4x3", "fair.yaml", tracking=False)
    result = run.run(asked)
    found = {score["metric"]: score for score in result["scores"]}
    for name, groups, n in (("rfw", ("african", "asian"), 120), ("world-groups", ("light", "medium", "brown", "dark"), 200)):
        for group in groups:
            assert found[f"groups/{name}/accuracy/{group}"]["n"] == n and found[f"groups/{name}/untrained_accuracy/{group}"]["n"] == n
        accuracies = [found[f"groups/{name}/accuracy/{group}"]["value"] for group in groups]
        assert found[f"groups/{name}/std"]["value"] == pytest.approx(np.std(accuracies, ddof=1))
        shared = [found[f"groups/{name}/shared_accuracy/{group}"]["value"] for group in groups]
        rates = [[found[f"groups/{name}/{rate}/{group}"]["value"] for group in groups] for rate in ("fmr", "fnmr")]
        assert shared == pytest.approx(100 - np.mean(rates, 0))  # as many genuine pairs as impostors in every fold
    assert found["groups/rfw/accuracy/asian"]["value"] == pytest.approx(found["verification/my-asian/accuracy"]["value"])
    assert found["groups/rfw/untrained_accuracy/asian"]["value"] == pytest.approx(found["untrained/my-asian/accuracy"]["value"])
    titles = further.metrics([result])
    assert titles["groups/rfw/std"] == "rfw: std by group (chance)" and len(titles) == 6
    shown = record.cell(result, "groups/rfw/std")
    assert shown.endswith(f"({found['groups/rfw/by_chance/std']['value']:.2f})") and "±" in shown
    real = run.run(run.Request("real", Path("runs"), None, "fair.yaml", tracking=False))
    (comparison,) = compare.compare(compare.Request((real["run"], result["run"]), Path("runs"), tracking=False))
    cell = comparison["rows"][1]["cells"]["groups/rfw/std"]
    assert cell["value"] == found["groups/rfw/std"]["value"] and cell["chance"] == found["groups/rfw/by_chance/std"]["value"]
    assert further.NOTES["groups"] in comparison["notes"]
    capsys.readouterr()
    terminal.show(comparison)
    record.show([result["baseline"], result], ["my-african"])
    assert capsys.readouterr().out.count("std by group (chance)") == 4
    world, rfw = parts.groups({"one": real, "two": result})
    assert [row[:2] for row in rfw.rows] == [[label, group] for label in ("one", "two") for group in ("african", "asian")]
    assert rfw.rows[3][4] == record.cell(result, "groups/rfw/fmr/asian", 1) and len(world.rows) == 8


def test_a_set_that_names_no_benchmark_is_refused_before_anything_is_made(faces_by_group):
    from pathlib import Path

    from synthbench.pipeline import run

    text = (faces_by_group / "fair.yaml").read_text().replace("asian: my-asian", "asian: my-asia")
    (faces_by_group / "fair.yaml").write_text(text)
    with pytest.raises(UserError, match=r"'my-asia' is none of the protocol's benchmarks; did you mean 'my-asian'"):
        run.run(run.Request("procedural", Path("runs"), "4x3", "fair.yaml", tracking=False))
    assert not (faces_by_group / "runs" / "stages").exists()


def test_a_network_from_elsewhere_has_them_too_under_such_a_protocol(faces_by_group, capsys):
    from pathlib import Path

    from synthbench.pipeline import evaluation, run

    result = run.run(run.Request("procedural", Path("runs"), "4x3", "fair.yaml", tracking=False))
    (again,) = evaluation.evaluate(evaluation.Request((result["run"],), Path("runs"), protocol="fair.yaml"))
    ours, theirs = (
        {score["metric"]: score["value"] for score in one["scores"] if score["metric"].startswith("groups/")} for one in (again, result)
    )
    assert ours == {metric: value for metric, value in theirs.items() if "untrained" not in metric} and len(ours) > 20
    (some,) = evaluation.evaluate(evaluation.Request((result["run"],), Path("runs"), ("world-mixed",), protocol="fair.yaml"))
    assert "there are no results of my-african, my-asian" in next(row["reason"] for row in some["skipped"] if row["metric"] == "groups")
