"""What a comparison says about runs whose recognizers are known: errors, differences, ties, ranks, and what may not be compared."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fake_runs import BENCHMARKS, config, make_run, outcome, score
from scipy import stats

from synthbench.results import comparable, comparison, inference, record, tables, terminal
from synthbench.results.comparison import AVG, GAP
from synthbench.store import Store
from synthbench.types import UserError


def compare(root, results, **options):
    base = next((result["run"] for result in results if result["generator"] == "real"), results[0]["run"])
    return comparison.compare(Store(root), results, "name", options.pop("baseline", base), "synthbench compare", **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Real 2.0, good 1.6, two weak ones of the same skill 0.3; three seeds."""
    root = tmp_path_factory.mktemp("runs")
    skills = {"real": 2.0, "good": 1.6, "weak": 0.3, "feeble": 0.3}
    results = [make_run(root, name, skill, seeds=3, pairs=600) for name, skill in skills.items()]
    return root, results, compare(root, results)


def test_the_file_holds_what_is_promised(world):
    _, results, made = world
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    keys = {"comparison", "protocol", "title", "volume", "seeds", "runs", "baseline", "floor", "columns", "rows", "differences"}
    assert keys | {"detectable_points", "notes", "skipped", "published", "command"} == set(made)
    assert made["runs"] == [result["run"] for result in results] and made["baseline"] == results[0]["run"] and made["seeds"] == [0, 1, 2]
    assert made["volume"] == "20x4"
    for row in made["rows"]:
        assert {"run", "label", "generator", "volume", "cells", "traits", "cost"} <= set(row)
        for cell in filter(None, row["cells"].values()):
            assert set(cell) == {"value", "sampling_stderr", "seed_std", "low", "high", "n", "best", "tied"}
    assert [column["metric"] for column in made["columns"]][:4] == [*(f"verification/{name}/accuracy" for name in BENCHMARKS), AVG, GAP]


def test_cells_are_the_scores_with_the_errors_of_pairs_and_seeds(world):
    _, results, made = world
    for result, row in zip(results, made["rows"]):
        values = [score["value"] for score in result["scores"] if score["metric"] == AVG]
        cell = row["cells"][AVG]
        assert (
            cell["value"] == pytest.approx(np.mean(values)) and cell["seed_std"] == pytest.approx(np.std(values, ddof=1)) and cell["n"] == 3
        )
        shares = [np.mean([outcome(name, skill(row), s, row["generator"], 600).correct for s in range(3)], axis=0) for name in BENCHMARKS]
        expected = 100 * np.sqrt(sum(share.var(ddof=1) / 600 for share in shares)) / 2
        assert cell["sampling_stderr"] == pytest.approx(expected)
        assert cell["low"] < cell["value"] - 1.9 * cell["sampling_stderr"] and cell["high"] > cell["value"] + 1.9 * cell["sampling_stderr"]


def skill(row):
    return {"real": 2.0, "good": 1.6, "weak": 0.3, "feeble": 0.3}[row["generator"]]


def test_the_gap_is_the_paired_difference_to_the_real_run_of_the_same_protocol(world):
    _, _, made = world
    real, good = made["rows"][:2]
    assert real["cells"][GAP] is None
    gap, difference = good["cells"][GAP], made["differences"][0]
    assert (difference["a"], difference["b"], difference["metric"]) == (good["run"], real["run"], AVG)
    assert gap["value"] == pytest.approx(-difference["points"]) and gap["low"] == pytest.approx(-difference["high"], abs=0.15)
    assert gap["sampling_stderr"] < np.hypot(real["cells"][AVG]["sampling_stderr"], good["cells"][AVG]["sampling_stderr"])


def test_differences_of_all_rows_on_all_benchmarks_with_holm_over_the_table(world):
    _, _, made = world
    averages = [item for item in made["differences"] if item["metric"] == AVG]
    single = [item for item in made["differences"] if item["metric"] != AVG]
    assert len(averages) == 6 and len(single) == 12
    assert [item["p_holm"] for item in averages] == pytest.approx(inference.holm([item["p"] for item in averages]))
    assert [item["mcnemar_p_holm"] for item in single] == pytest.approx(inference.holm([item["mcnemar_p"] for item in single]))
    assert all(item["low"] <= item["points"] <= item["high"] for item in made["differences"])
    assert all("mcnemar_p" not in item for item in averages)


def test_mcnemar_of_one_seed_is_the_binomial_test_of_discordant_pairs(tmp_path):
    results = [make_run(tmp_path, "good", 1.6, seeds=1), make_run(tmp_path, "weak", 0.9, seeds=1)]
    made = compare(tmp_path, results)
    for item in made["differences"][1:]:
        benchmark = item["metric"].split("/")[1]
        a, b = (outcome(benchmark, skill, 0, who, 200).correct for who, skill in (("good", 1.6), ("weak", 0.9)))
        only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
        exact = stats.binomtest(only_a, only_a + only_b).pvalue
        assert item["mcnemar_p"] == pytest.approx(exact - stats.binom.pmf(min(only_a, only_b), only_a + only_b, 0.5))


def test_the_best_generator_is_marked_and_those_like_it(world):
    _, _, made = world
    real, good, weak, feeble = (row["cells"][AVG] for row in made["rows"])
    assert good["best"] and not any(cell["best"] for cell in (real, weak, feeble))  # real is what is measured against
    assert not (weak["tied"] or feeble["tied"] or real["tied"])
    gaps = [row["cells"][GAP] for row in made["rows"][1:]]
    assert [gap["best"] for gap in gaps] == [True, False, False]
    assert made["rows"][1]["cells"]["fd/judge/frechet"]["best"]
    assert not any(row["cells"]["leakage/real_photographs"]["best"] for row in made["rows"][1:])


def test_equals_are_tied_and_get_no_rank(world):
    _, _, made = world
    assert [row["rank"] for row in made["rows"]] == [None, [1, 1], [2, 3], [2, 3]]


def test_what_has_no_error_gets_no_mark(tmp_path):
    """One seed and no sampling error: nothing was tested, so neither is one the best nor the other like it."""
    results = [make_run(tmp_path, name, 1.0, seeds=1) for name in ("one", "other")]
    for result, value in zip(results, (0.1, 0.9)):
        result["scores"].append(score("separability/d_prime", value, None, 0))
    cells = [row["cells"] for row in compare(tmp_path, results)["rows"]]
    assert not any(cell["separability/d_prime"]["best"] or cell["separability/d_prime"]["tied"] for cell in cells)
    assert any(cell["fd/judge/frechet"]["best"] for cell in cells)  # its error is known


def test_the_distance_of_the_real_set_to_itself_is_no_measurement(tmp_path):
    results = [make_run(tmp_path, name, 1.0, seeds=1) for name in ("real", "one")]
    results[0]["scores"].append(score("fd/judge/frechet", 0.0, 0.0, 0, False))
    real, one = (row["cells"]["fd/judge/frechet"] for row in compare(tmp_path, results)["rows"])
    assert real is None and one["value"] == pytest.approx(1.0)
    assert record.cell(results[0], "fd/judge/frechet") == "-" and record.cell({**results[0], "volume": "9x9"}, "fd/judge/frechet") != "-"


def test_generators_of_equal_skill_are_tied(tmp_path):
    results = [make_run(tmp_path, name, 1.0, seeds=3) for name in ("one", "other")]
    made = compare(tmp_path, results)
    cells = [row["cells"][AVG] for row in made["rows"]]
    assert sorted((cell["best"], cell["tied"]) for cell in cells) == [(False, True), (True, False)]
    assert [row["rank"] for row in made["rows"]] == [[1, 2], [1, 2]]


def test_one_seed_is_said_and_gets_no_ranks(tmp_path):
    results = [make_run(tmp_path, name, skill, seeds=1) for name, skill in (("real", 2.0), ("good", 1.6), ("weak", -1.0))]
    made = compare(tmp_path, results)
    assert any(note.startswith("n = 1 seed:") for note in made["notes"]) and all(row["rank"] is None for row in made["rows"])
    assert all(row["cells"][AVG]["seed_std"] is None for row in made["rows"])
    assert any("at least" in note and f"{made['detectable_points']:.2f} points" in note for note in made["notes"])


def test_the_detectable_difference_shrinks_with_pairs(tmp_path):
    sizes = []
    for pairs in (100, 1600):
        results = [make_run(tmp_path / str(pairs), name, 1.0, seeds=1, pairs=pairs) for name in ("one", "other")]
        sizes.append(compare(tmp_path / str(pairs), results)["detectable_points"])
    assert sizes[0] / sizes[1] == pytest.approx(4, rel=0.25)


def test_cost_is_of_the_run_s_own_stages_for_one_seed(tmp_path):
    result = make_run(tmp_path, "good", seeds=2)
    store, sides = Store(tmp_path), comparable.sides(result)
    assert [row["key"] for row in sides["own"] if row["name"] == "generate"] == ["generate-good0", "generate-good1"]
    assert {row["key"] for row in sides["real"]} == {
        *(f"{name}-real{seed}" for name in ("recognizer",) for seed in (0, 1)),
        *(f"evaluate-realjudge0{seed}" for seed in (0, 1)),
        "generate-real",
    }
    found = comparable.cost(store, result)
    disk = sum(sum((store.stage(row["name"], row["key"]).manifest() or {})["files"].values()) for row in sides["own"])
    assert found["images"] == 25 and found["disk_bytes"] == disk / 2 and found["hours"] >= 0 and found["device"] == "cpu"


def test_a_finite_generator_s_set_stands_before_the_real_one(tmp_path):
    """`folder` looks for its images first, so its generate stage precedes the baseline's."""
    result = make_run(tmp_path, "folder", seeds=1)
    rows = result["stages"]
    own = next(row for row in rows if row["key"] == "generate-folder0")
    result["stages"] = [rows[0], own, *(row for row in rows[1:] if row is not own)]
    sides = comparable.sides(result)
    assert own in sides["own"] and [row["key"] for row in sides["real"] if row["name"] == "generate"] == ["generate-real"]


def test_a_run_without_its_stages_keeps_its_row(tmp_path):
    import shutil

    results = [make_run(tmp_path, name, 1.0, seeds=2) for name in ("one", "other")]
    shutil.rmtree(tmp_path / "stages" / "evaluate" / "evaluate-onejudge01")
    made = compare(tmp_path, results)
    assert made["differences"] == [] and made["detectable_points"] is None
    assert made["rows"][0]["cells"][AVG]["value"] > 0 and made["rows"][0]["cost"]["hours"] is None
    assert any("lack of per-pair results: one 20x4" in note for note in made["notes"])


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("change", "field"), [({"protocol": "paper"}, "protocol"), ({"judge": "judge1"}, "judge"), ({"recipe": "long"}, "recipe")]
)
def test_what_was_measured_differently_is_named(tmp_path, change, field):
    one, other = make_run(tmp_path, "one"), make_run(tmp_path, "other", **change)
    assert field in comparable.differing(one, other) and len(comparable.groups([one, other])) == 2
    assert not comparable.differing(one, make_run(tmp_path, "third")) and not comparable.differing(one, one)


def test_what_follows_from_another_real_set_is_not_named_too(tmp_path):
    one, other = make_run(tmp_path, "one"), make_run(tmp_path, "other", recipe="long")
    other["stages"][0]["key"] = "another real set"
    assert list(comparable.differing(one, other)) == ["real set"]


def test_another_setting_of_an_evaluator_is_named_when_nothing_else_differs(tmp_path):
    one, other = make_run(tmp_path, "one"), make_run(tmp_path, "other")
    for row in other["stages"]:
        if row["name"] == "evaluate":
            row["key"] += "-other"
    assert list(comparable.differing(one, other)) == ["evaluators"]


def test_other_pairs_are_refused(tmp_path):
    results = [make_run(tmp_path / "a", "one", pairs=200), make_run(tmp_path / "a", "other", pairs=300)]
    with pytest.raises(UserError, match="not the same set of pairs"):
        compare(tmp_path / "a", results)


def test_a_run_that_does_not_name_its_evaluations_is_refused(tmp_path):
    result = make_run(tmp_path, "one")
    result["stages"] = result["stages"][:-1]
    with pytest.raises(UserError, match=r"names 3 evaluations for 2 seed"):
        comparable.sides(result)


def test_protocols_of_one_name_are_told_apart_by_their_settings_without_a_shared_seed(tmp_path):
    def run(place, seeds, **changes):
        made = make_run(tmp_path / place, "one", recipe=place, config=config(**changes))
        return {**made, "seeds": seeds}

    plain = run("a", [0, 1])
    assert comparable.differing(plain, run("a", [2, 3])) == {}
    assert comparable.differing(plain, run("b", [2, 3], epochs=9)) == {
        "recipe epochs": ("8", "9"),
        "judge recipe.epochs": ("8", "9"),
    }
    assert comparable.differing(plain, run("c", [2, 3], folds=5)) == {"evaluators verification.folds": ("10", "5")}
    assert comparable.differing(plain, run("d", [0, 1], epochs=9))["recipe epochs"] == ("8", "9")  # not by a key, which says nothing
    assert comparable.differing(plain, run("e", [2, 3], encoder_seed=7)) == {}  # this generator uses no encoder
    with_encoder = [{**run("f", [0, 1], encoder_seed=seed), "traits": {"trains": True}} for seed in (1, 7)]
    assert comparable.differing(*with_encoder) == {"encoder seed": ("1", "7")}
    older = {name: value for name, value in plain.items() if name != "config"}
    assert comparable.differing(older, run("g", [2, 3])) == {}  # an older version kept no settings: by keys alone
    assert [len(group) for group in comparable.groups([plain, run("h", [2, 3], epochs=9), run("i", [4, 5])])] == [2, 1]


def test_labels_tell_runs_apart(tmp_path):
    make = [make_run(tmp_path, "one", settings={"sample": {"m": m, "steps": 5}}, tag=f"t{i}") for i, m in enumerate((0.0, 0.5))]
    assert comparable.labels(make) == ["one 20x4 sample.m=0.0", "one 20x4 sample.m=0.5"]
    same = [make[0], {**make[0], "run": "one-20x4-demo-zzz"}]
    assert len(set(comparable.labels(same))) == 2
    assert comparable.labels([make_run(tmp_path, "real"), make[0]]) == ["real", "one 20x4"]


def test_the_tables_take_it(world):
    _, _, made = world
    text = tables.table_markdown(made)
    assert "**" in text and "good 20x4" in text and "hours per seed" in text
    assert r"\toprule" in tables.table_latex(made) and tables.table_csv(made).count("\n") > 20


def test_the_recognizer_that_learnt_nothing_is_the_lowest_row_and_no_rival(tmp_path, capsys):
    results = [make_run(tmp_path, "real", seeds=2), make_run(tmp_path, "one", seeds=2)]
    plain = compare(tmp_path, results)
    for result in results:
        for seed in range(2):
            result["scores"] += [score(f"untrained/{name}/accuracy", 61.25, 0.5, seed) for name in ("world-mixed", "world-profile", "avg")]
    made = compare(tmp_path, results)
    cards = [[row.pop("scorecard") for row in one["rows"]] for one in (plain, made)]
    assert plain["floor"] is None and made["rows"] == plain["rows"] and made["differences"] == plain["differences"]
    assert len(cards[1][0]) == len(cards[0][0]) + 2  # the span of the benchmark is known now: what it can tell, and over how many seeds
    cell = made["floor"]["cells"]["verification/avg/accuracy"]
    assert (cell["value"], cell["sampling_stderr"], cell["seed_std"]) == (61.25, 0.5, None) and cell["low"] < 61.25 < cell["high"]
    assert set(made["floor"]["cells"]) == {f"verification/{name}/accuracy" for name in ("world-mixed", "world-profile", "avg")}
    for text in (tables.table_markdown(made), tables.table_latex(made), tables.table_csv(made)):
        assert text.count("untrained network") >= 1 and text.index("untrained network") < text.index("one 20x4")
    terminal.show(made)
    assert "untrained network" in capsys.readouterr().out
    record.show(results, ["world-mixed", "world-profile"])
    shown = capsys.readouterr().out.splitlines()
    assert not any("leak" in line or "d'" in line for line in shown)  # nobody has those: no column of dashes
    (line,) = [line for line in shown if "untrained network" in line]
    assert line.count("61.2") == 3 and "one 20x4" not in line
