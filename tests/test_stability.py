"""Is the ranking the recipe's: tau against SciPy, its interval and what noise leaves, differences that survive, the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from scipy.stats import kendalltau

from synthbench.pipeline import compare, variants
from synthbench.results import stability
from synthbench.types import UserError

AVG = "verification/avg/accuracy"


def tables(means, seeds=1, pairs=(400, 500), seed=0):
    """Right or wrong of generators with these accuracies; one difficulty for each pair of images, the same for all."""
    random = np.random.default_rng(seed)
    hard = [np.random.default_rng(7 + size).normal(0, 0.1, size) for size in pairs]
    return [[(random.random((seeds, len(h))) < mean + h).astype(float) for h in hard] for mean in means]


def test_tau_is_that_of_scipy():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 5, 7))
    np.testing.assert_allclose(stability.tau(a, b), [kendalltau(x, y).statistic for x, y in zip(a, b)])


def test_drawn_averages_are_those_of_writing_pairs_out():
    own, random = tables([0.7, 0.6], seeds=1, pairs=(20, 30)), np.random.default_rng(1)
    weights = [random.multinomial(size, np.full(size, 1 / size), size=6) for size in (20, 30)]
    found = stability.drawn(own, weights, random)
    for draw in range(6):
        for g in range(2):
            parts = [np.repeat(own[g][k][0], weights[k][draw]).mean() for k in range(2)]
            assert found[draw, g] == pytest.approx(np.mean(parts))


def test_the_same_order_far_apart_is_certain_and_the_opposite_too():
    far, near = [0.9, 0.8, 0.7, 0.6], [0.95, 0.85, 0.75, 0.65]
    same = stability.agreement(tables(far), tables(near, seed=1), np.random.default_rng(0), 200)
    assert same["tau"] == same["low"] == same["high"] == 1 and same["same_recipe"] > 0.99
    other = stability.agreement(tables(far), tables(near[::-1], seed=1), np.random.default_rng(0), 200)
    assert other["tau"] == other["high"] == -1


def test_alike_generators_have_no_stable_order_and_noise_alone_explains_it():
    found = stability.agreement(tables([0.7] * 6), tables([0.7] * 6, seed=1), np.random.default_rng(0), 200)
    assert found["low"] < 0 < found["high"] and found["same_recipe"] < 0.8
    many = stability.agreement(
        tables([0.75, 0.7, 0.65] * 2, seeds=3), tables([0.75, 0.7, 0.65] * 2, 3, seed=1), np.random.default_rng(0), 200
    )
    assert many["same_recipe"] > found["same_recipe"]


def test_judges_agree_as_far_as_their_scores_and_errors_do():
    random = np.random.default_rng(0)
    a, b, none = random.normal(size=6), random.normal(size=6), np.zeros(6)
    exact = stability.accord(np.stack([a, none]), np.stack([b, none]), random)
    assert exact["tau"] == exact["low"] == exact["high"] == pytest.approx(kendalltau(a, b).statistic) and exact["same_judge"] == 1
    value = np.arange(6.0)
    sure, vague = np.stack([value, none + 0.1]), np.stack([value, none + 100])
    assert stability.accord(sure, sure, random)["low"] == 1
    unknown = stability.accord(sure, np.stack([value[::-1], [*none[1:], np.nan]]), random)
    assert unknown == {"tau": -1, "low": None, "high": None, "same_judge": None}  # and not an interval of no width
    lost = stability.accord(vague, vague, random, 4000)
    assert lost["tau"] == 1 and lost["low"] < -0.5 and lost["high"] > 0.5 and abs(lost["same_judge"]) < 0.05


def comparison(*rows):
    """Rows a, b, c beside real; `rows`: (first, second, points, p)."""
    labels = [{"run": name, "label": name.upper(), "generator": name} for name in ("real", "a", "b", "c")]
    return {"rows": labels, "differences": [{"metric": AVG, "a": a, "b": b, "points": points, "p_holm": p} for a, b, points, p in rows]}


def test_differences_that_both_find_one_finds_and_contradict():
    one = comparison(("a", "b", 3, 0.01), ("c", "a", -2, 0.001), ("b", "c", 1, 0.02), ("real", "a", 9, 0.001))
    other = comparison(("b", "a", -4, 0.01), ("a", "c", 1, 0.3), ("b", "c", -1, 0.02), ("real", "a", 9, 0.001))
    found = stability.compared(one, other)
    assert found == {"pairs": 3, "survive": 1, "only_a": 1, "only_b": 0, "opposite": ["B, C"]}


def test_what_cannot_be_asked_is_refused(here):
    def ask(names, *recipe):
        return variants.requests(compare.Request(names, here / "runs", "4x3", "tiny.yaml"), "recipe", recipe)

    three = ("real", "procedural", "procedural sample.difficulty=2", "cemiface")
    with pytest.raises(UserError, match="give two or more"):
        ask(three, "demo")
    with pytest.raises(UserError, match="name 3 generators or more"):
        ask(("real", "procedural", "cemiface"), "demo", "demo_adaface")
    for rows in (three, three[:1]):  # a name that means nothing is told first
        with pytest.raises(UserError, match="unknown recipe 'demo_adafac'"):
            ask(rows, "demo", "demo_adafac")
    (here / "other").mkdir()
    (here / "other" / "recipe.yaml").write_text((here / "recipe.yaml").read_text())
    with pytest.raises(UserError, match="two have one name"):
        ask(three, "recipe.yaml", "other/recipe.yaml")
    for judge, said in (("adaface_ir101", "or RECIPE:SEED, a network that is trained"), ("recipe.yam:3", "unknown recipe|no file")):
        with pytest.raises(UserError, match=said):
            variants.requests(compare.Request(three, here / "runs", "4x3", "tiny.yaml"), "judge", ("world-judge", judge))


def test_judges_whose_names_differ_behind_a_dot_have_protocols_of_their_own():
    stems = [variants._stem(name) for name in ("arcface.v1", "arcface.v2", "demo_encoder:7", "my/own.yaml:3", "own.yml", "a b+c")]
    assert stems == ["arcface.v1", "arcface.v2", "demo_encoder-7", "own-3", "own", "a_b_c"]


def test_the_command_compares_under_both_and_says_how_far_they_agree(here):
    from click.testing import CliRunner

    from synthbench.cli.app import cli

    other = yaml.safe_load((here / "recipe.yaml").read_text())
    (here / "other.yaml").write_text(yaml.safe_dump({**other, "head": "arcface", "epochs": 3}))
    rows = ["procedural", "procedural sample.difficulty=2", "procedural sample.difficulty=0.5"]
    command = ["compare", "real", *rows, "--protocol", "tiny.yaml", "--volume", "4x3", "--runs", "runs", "--no-tracking"]
    command += ["--recipes", "recipe.yaml,other.yaml", "-o", "out"]
    told = json.loads(CliRunner().invoke(cli, [*command, "--format", "json"], catch_exceptions=False).stdout)
    first, second = told["comparisons"]
    assert (first["protocol"], second["protocol"]) == ("tiny", "tiny-other")
    assert told["stability"]["recipes"] == ["recipe.yaml", "other.yaml"] and len(told["stability"]["rows"]) == 3
    for made, averages in zip((first, second), told["stability"]["averages"].values()):
        assert averages == pytest.approx([row["cells"][AVG]["value"] for row in made["rows"][1:]])
    (found,) = told["stability"]["agreement"]
    assert -1 <= found["low"] <= found["tau"] <= found["high"] <= 1 and found["pairs"] == 3
    assert json.loads((here / "out" / "stability.json").read_text()) == told["stability"]
    again = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert "is the ranking stable?" in again.stdout and "AVG % under each recipe" in again.stdout
    assert (here / "runs" / "protocols" / "tiny-other.yaml").exists()


def test_the_command_asks_two_judges(here):
    from click.testing import CliRunner

    from synthbench.cli.app import cli

    rows = ["procedural", "procedural sample.difficulty=2", "procedural sample.difficulty=0.5"]
    command = ["compare", "real", *rows, "--protocol", "tiny.yaml", "--volume", "4x3", "--runs", "runs", "--no-tracking"]
    command += ["--judges", "recipe.yaml:9,recipe.yaml:8"]
    told = json.loads(CliRunner().invoke(cli, [*command, "--format", "json"], catch_exceptions=False).stdout)
    first, second = told["comparisons"]
    assert [row["cells"][AVG]["value"] for row in first["rows"]] == [row["cells"][AVG]["value"] for row in second["rows"]]
    title, metric = "intra-class sim.", "separability/intra_class_similarity"
    for made, scores in zip((first, second), told["stability"]["scores"][title].values()):
        assert scores == pytest.approx([row["cells"][metric]["value"] for row in made["rows"][1:]])
    assert first["rows"][1]["cells"][metric]["value"] != second["rows"][1]["cells"][metric]["value"]
    agreement = {found["score"]: found for found in told["stability"]["agreement"]}
    assert -1 <= agreement[title]["low"] <= agreement[title]["high"] <= 1
    assert agreement["d'"]["low"] is None  # of four people it has no error
    shown = CliRunner().invoke(cli, command, catch_exceptions=False).stdout
    assert "intra-class sim. by each judge" in shown and "the same judge" in shown
    with pytest.raises(UserError, match="one question at a time"):
        CliRunner().invoke(cli, [*command, "--recipes", "a,b"], catch_exceptions=False)
