"""The seven requirements: intervals by hand, the real set beside, reasons where nothing was measured, no total; the report has them."""

from __future__ import annotations

import pytest
from scipy.stats import norm

from synthbench.report import parts
from synthbench.results.scorecard import scorecard


def score(metric, value, stderr=None, n=100):
    return {"metric": metric, "value": value, "stderr": stderr, "n": n, "higher_is_better": True, "seed": 0}


def result(*more, skipped=()):
    scores = [
        score("separability/intra_class_similarity", 0.5, 0.01),
        score("separability/d_prime", 2.0, 0.05),
        score("leakage/image_to_image/share_above", 0.004, 0.001),
        score("leakage/held_out/image_to_image/share_above", 0.003, 0.001),
        score("verification/avg/accuracy", 76.0, 0.5),
        score("untrained/avg/accuracy", 60.0, 0.6),
        *more,
    ]
    real = {"generator": "real", "volume": "all", "size": "300x20", "seeds": [0]}
    real["scores"] = [score("separability/d_prime", 2.9), score("verification/avg/accuracy", 88.0, 0.4), score("fd/judge/recall", 1.0)]
    about = {"generator": "x", "volume": "2x3", "size": "2x3", "seeds": [0], "learnt_from": {"real": 6000}}
    return {**about, "traits": {"needs_labels": True, "pretrained": ""}, "scores": scores, "skipped": list(skipped), "baseline": real}


def lines(result):
    return {(line["requirement"], line["measure"]): (line["value"], line["real"]) for line in scorecard(result)}


def test_all_seven_are_there_and_nothing_is_added_up():
    found = [line["requirement"] for line in scorecard(result())]
    assert list(dict.fromkeys(found)) == [
        "identity leakage prevention",
        "intra-class variability",
        "identity separability",
        "scale",
        "ethical sourcing",
        "bias mitigation",
        "benchmark reliability",
    ]


def test_numbers_have_their_interval_and_the_real_set_beside():
    found = {measure: cells for (_, measure), cells in lines(result()).items()}
    assert found["similarity of images of one identity, judge"] == ("0.50 [0.48, 0.52]", "")
    assert found["d' of genuine and impostor pairs, judge"] == ("2.00 [1.90, 2.10]", "2.90")
    assert found["images taken for a person of the real set, % (strangers' images that are)"] == ("0.4 ±0.1 (0.3)", "")
    assert found["identities x images"] == ("2x3", "300x20")
    assert found["learnt from"] == ("6,000 images of real, with labels", "")
    assert found["AVG %: untrained network to real set"] == ("60.0 to 88.0", "")


def test_a_set_without_photographs_has_none_whatever_was_measured():
    (line,) = [line for line in scorecard(result(), "") if line["measure"].startswith("photographs")]
    assert line["value"] == "0 (its generator has none)"
    (line,) = [line for line in scorecard(result(), "all") if line["measure"].startswith("photographs")]
    assert line["value"].startswith("not measured")


def test_what_the_benchmark_can_tell_is_that_of_a_test_of_two_such_sets():
    """Two errors of 0.5 points: found with probability 0.8 at level 0.05 is (1.96 + 0.84) sqrt(2) 0.5 points, of a span of 28."""
    share = (norm.ppf(0.975) + norm.ppf(0.8)) * 2**0.5 * 0.5 / 28
    (told,) = [cells[0] for (_, measure), cells in lines(result()).items() if measure.startswith("least difference")]
    assert told == f"{100 * share:.0f} %, seeds not counted"


def test_groups_are_the_bias_and_its_error_does_not_reach_below_zero():
    groups = [score("groups/rfw/std", 1.0, 0.8), score("groups/rfw/by_chance/std", 1.4)]
    found = lines(result(*groups))
    assert found[("bias mitigation", "std by group (chance)")] == ("1.00 [0.00, 2.57] (1.40)", "")


def test_what_was_not_measured_has_its_reason():
    skipped = [{"metric": "fd/judge/recall", "reason": "too few images"}]
    found = lines(result(skipped=skipped))
    assert found[("intra-class variability", "share of the real set's variety that is covered (recall), judge")] == (
        "not measured: too few images",
        "",
    )
    assert "no evaluator `groups`" in found[("bias mitigation", "accuracy by group of people")][0]
    crowded = result(score("leakage/held_out/image_to_image/share_above", 0.3, 0.01))
    told = lines(crowded)[("identity leakage prevention", "images taken for a person of the real set, % (strangers' images that are)")][0]
    assert told == "cannot be told: the judge takes 15.2 % of strangers for one"


def test_a_network_from_elsewhere_has_no_set_and_no_card():
    assert scorecard({**result(), "weights": {}}) == []


def test_the_report_shows_a_table_for_each_row():
    (grid,) = parts.requirements({"one": scorecard(result())})
    assert grid.header == ["requirement", "measure", "this set", "real set"] and "no total" in grid.caption
    assert len(grid.rows) == len(scorecard(result()))


@pytest.mark.parametrize("metric", ["fd/judge/recall"])
def test_the_distance_of_the_real_set_to_itself_is_no_measurement(metric):
    found = lines(result(score(metric, 0.8, 0.01)))
    assert found[("intra-class variability", "share of the real set's variety that is covered (recall), judge")] == (
        "0.80 [0.78, 0.82]",
        "",
    )
