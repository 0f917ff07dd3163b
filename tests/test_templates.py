"""Templates: pooling, TAR, ranks, average precision and TPIR against loops and hand-worked cases; their errors; the world's set."""

from __future__ import annotations

import itertools
from dataclasses import replace

import fake_subject
import numpy as np
import pytest
import torch
from fake_subject import Projection, context, subject

from synthbench.config import Layer, build
from synthbench.data.faces import FaceSet
from synthbench.data.templates import Templates, TemplateSet, open_templates, save_templates, subjects_of
from synthbench.evaluators import templates as measured
from synthbench.evaluators.pairs import tar_at_far
from synthbench.evaluators.templates import TemplatesConfig, TemplateSets, by_chance, compared, cosines, search, tpir
from synthbench.types import Skipped, UserError

CPU = torch.device("cpu")


def units(*shape, seed=0):
    found = np.random.default_rng(seed).normal(size=shape)
    return (found / np.linalg.norm(found, axis=-1, keepdims=True)).astype(np.float32)


def a_set(people=12, seed=0, **changes):
    """Two stills and a video of three frames of each person; two galleries; everybody is compared with everybody."""
    random = np.random.default_rng(seed)
    template = np.repeat(np.arange(2 * people), [2, 3] * people)
    media = np.concatenate([[0, 1, 2, 2, 2]] * people)
    known, probes = 2 * np.arange(people), 2 * np.arange(people) + 1
    left, right = (side.reshape(-1) for side in np.meshgrid(known, probes, indexing="ij"))
    weight = random.uniform(0.2, 1, len(template)).astype(np.float32)
    who = Templates(template, media, np.arange(2 * people) // 2, weight, left, right, left // 2 == right // 2,
                    {"G1": known[: people // 2], "G2": known[people // 2 :]}, probes)  # fmt: skip
    pixels = random.integers(0, 256, (len(template), 8, 8, 3), dtype=np.uint8)
    return TemplateSet("tiny", FaceSet.from_arrays(pixels, np.full(len(template), -1)), replace(who, **changes))


def by_name(results):
    scores, reasons = fake_subject.by_name(results)
    return scores | reasons


def config(**settings):
    return build(TemplatesConfig, Layer(settings))


# ---- pooling ----


@pytest.mark.parametrize("settings", [{}, {"norm": False}, {"faceness": False}, {"flip": False, "norm": False, "faceness": False}])
def test_a_template_is_the_sum_of_the_means_of_its_media(settings):
    one, network = a_set(4), Projection(3 * 8 * 8)
    found = TemplateSets(config(**settings)).pooled(network, one, lambda done, total: None, batch_size=3)
    how = config(**settings)
    for template in range(len(one.who)):
        total = 0.0
        for medium in np.unique(one.who.media[one.who.template == template]):
            embedded = []
            for row in np.flatnonzero((one.who.template == template) & (one.who.media == medium)):
                pixels = one.images.images([row]).float() / 127.5 - 1
                z = network(pixels)[0] + (network(pixels.flip(3))[0] if how.flip else 0)
                z = z if how.norm else z / z.norm()
                embedded.append(z * float(one.who.weight[row]) if how.faceness else z)
            total = total + torch.stack(embedded).mean(0)
        np.testing.assert_allclose(found[template], (total / total.norm()).numpy(), atol=1e-5)


# ---- 1:1 ----


def test_cosines_of_pairs_are_those_of_a_loop_for_any_block():
    features, random = units(40, 6), np.random.default_rng(1)
    left, right = random.integers(0, 40, (2, 300))
    plain = [float(features[a] @ features[b]) for a, b in zip(left, right)]
    for rows in (1, 7, 256):
        np.testing.assert_allclose(cosines(features, left, right, rows=rows), plain, atol=1e-6)


def test_tar_is_the_share_of_genuine_pairs_above_all_but_the_allowed_impostors():
    one = a_set(40)
    features = units(80, 5, seed=2)
    features[1::2] = features[0::2] + 0.5 * units(40, 5, seed=3)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    found = by_name(compared(one, features, config(far=(1e-2, 1e-3), draws=30), np.random.default_rng(0), CPU))
    score = np.array([features[a] @ features[b] for a, b in zip(one.who.left, one.who.right)])
    genuine, impostors = score[one.who.same], np.sort(score[~one.who.same])[::-1]
    threshold = impostors[int(0.01 * len(impostors))]  # the first that would be one too many
    assert found["templates/tiny/tar_at_far_1e-2"].value == pytest.approx(100 * (genuine > threshold).mean())
    assert 0 < found["templates/tiny/tar_at_far_1e-2"].stderr < 50
    assert found["templates/tiny/tar_at_far_1e-2"].n == 40
    assert "1,560 impostor pairs are too few" in str(found["templates/tiny/tar_at_far_1e-3"])


def test_the_error_of_a_tar_is_that_of_drawing_people_again():
    """A pair weighs w_a w_b: the same as writing every drawn person out as often as drawn, and asking for the TAR anew."""
    one, random = a_set(30), np.random.default_rng(5)
    score = np.where(one.who.same, random.normal(1, 0.6, len(one.who.same)), random.normal(0, 0.5, len(one.who.same))).astype(np.float32)
    drawn = random.multinomial(30, np.full(30, 1 / 30), size=25).astype(float)
    values = []
    for weight in drawn:
        times = (weight[one.who.left // 2] * weight[one.who.right // 2]).astype(int)
        genuine = weight[np.arange(30)].astype(int)
        kept = np.where(one.who.same, genuine[one.who.left // 2], times)
        rows = np.repeat(np.arange(len(score)), kept)
        values.append(tar_at_far(-score[rows], one.who.same[rows], 0.05))
    kept_weights = measured.bootstrap_weights
    try:
        measured.bootstrap_weights = lambda *of: drawn
        found = measured.tar_errors(score, one.who, [0.05], 25, random)
    finally:
        measured.bootstrap_weights = kept_weights
    assert found[0.05] == pytest.approx(np.std(values, ddof=1), rel=1e-6)


# ---- 1:N ----


def one_by_one(probe, gallery, there, person):
    """(rank, average precision) of one probe by sorting, strangers before the person's own where they are equally alike."""
    score = gallery @ probe
    order = sorted(range(len(gallery)), key=lambda row: (-score[row], there[row] == person))
    places = [place for place, row in enumerate(order, 1) if there[row] == person]
    precision, old_recall, old = 0.0, 0.0, 1.0
    for place in range(1, len(order) + 1):  # TinyFace's compute_ap, read off its description: trapezes under precision over recall
        hits = sum(p <= place for p in places)
        now, recall = hits / place, hits / len(places)
        precision += (recall - old_recall) * (old + now) / 2
        old_recall, old = recall, now
    return places[0], precision


def test_ranks_and_average_precision_are_those_of_sorting_each_row():
    random = np.random.default_rng(3)
    gallery, there = units(60, 4, seed=4), np.append(random.integers(0, 15, 50), np.full(10, -1))
    gallery[7] = gallery[8]
    wanted = np.append(np.arange(15), [99, 100, -1])
    probes = np.concatenate(
        [gallery[[int(np.flatnonzero(there == p)[0]) for p in range(15)]] + 0.8 * units(15, 4, seed=6), units(3, 4, seed=7)]
    )
    for rows in (4, 256):
        found = search(probes.astype(np.float32), gallery, wanted, there, rows=rows)
        for q in range(15):
            rank, precision = one_by_one(probes[q].astype(np.float32), gallery, there, q)
            assert (found.rank[q], found.precision[q]) == (rank, pytest.approx(precision, abs=1e-6))
        assert (found.rank[15:] == 0).all()
        np.testing.assert_allclose(found.score[15:], (probes[15:].astype(np.float32) @ gallery.T).max(1), atol=1e-6)


def test_a_network_that_maps_all_to_one_point_finds_nobody():
    same = np.ones((6, 3), np.float32) / np.sqrt(3)
    found = search(same, same, np.arange(6), np.arange(6))
    assert (found.rank == 6).all()


def test_tpir_by_hand():
    """Ten strangers reach 0.0 to 0.9; at FPIR 0.1 one of them may be taken for somebody, so that the threshold is the second, 0.8."""
    rank = np.array([1, 1, 1, 2] + [0] * 10)
    score = np.array([0.95, 0.85, 0.8, 0.99] + [k / 10 for k in range(10)], np.float32)
    assert tpir(measured.Search(rank, score, np.zeros(14)), 0.1) == pytest.approx(2 / 4)  # the fourth came second, the third not above


def test_scores_are_means_over_galleries_with_chance_and_floor_beside_them(tmp_path):
    one, network = a_set(24), Projection(3 * 8 * 8)
    network.weight = network.weight * 0 + torch.randn(network.weight.shape, generator=torch.Generator().manual_seed(1))
    seen = replace(subject(None, network, recognizer=network), templates=[one], untrained=lambda seed: Projection(3 * 8 * 8))
    settings = config(far=(1e-2,), rank=(1, 3), fpir=(0.5, 1e-2), draws=20)
    found = by_name(TemplateSets(settings).evaluate(seen, context(tmp_path, 0)))
    features = TemplateSets(settings).pooled(network, one, lambda done, total: None)
    ranks = []
    for gallery, people in ((one.who.galleries["G1"], range(12)), (one.who.galleries["G2"], range(12, 24))):
        ranks.append(np.mean([one_by_one(features[2 * p + 1], features[gallery], gallery // 2, p)[0] <= 3 for p in people]))
    assert found["templates/tiny/rank_3"].value == pytest.approx(100 * np.mean(ranks))
    assert found["templates/tiny/rank_3"].n == 24
    assert found["templates/tiny/by_chance/rank_3"].value == pytest.approx(100 * 3 / 12)
    assert found["templates/tiny/by_chance/tpir_at_fpir_5e-1"].value == pytest.approx(100 * 0.5 / 12)
    assert "templates/tiny/untrained/rank_3" in found and "templates/tiny/map" not in found
    assert "too few" in str(found["templates/tiny/tpir_at_fpir_1e-2"])
    again = replace(seen, baseline=tmp_path, untrained=None)
    (tmp_path / "other").mkdir()
    floors = by_name(TemplateSets(settings).evaluate(again, context(tmp_path / "other", 0)))
    assert floors["templates/tiny/untrained/rank_3"] == found["templates/tiny/untrained/rank_3"]


def test_chance_is_that_of_drawing_names():
    wanted, there = np.array([0, 1, 1, 7]), np.array([0, 1, 1, 2, -1])
    right = {0: 0, 1: 0}
    draws = list(itertools.permutations(range(5), 2))
    for person in right:
        right[person] = sum(any(there[row] == person for row in draw) for draw in draws) / len(draws)
    assert by_chance(wanted, there, 2) == pytest.approx((right[0] + 2 * right[1]) / 3)


def test_without_a_recognizer_or_template_sets_it_says_so(tmp_path):
    with pytest.raises(Skipped, match="no recognizer"):
        TemplateSets(config()).evaluate(subject(None, None), context(tmp_path, 0))
    with pytest.raises(Skipped, match="names no template sets"):
        TemplateSets(config()).evaluate(subject(None, None, recognizer=Projection(3)), context(tmp_path, 0))


# ---- kept ----


def test_what_is_kept_is_what_was_there(tmp_path):
    one = a_set(3)
    rows = one.images.images(slice(None)).permute(0, 2, 3, 1).numpy()
    save_templates("tiny", one.who, lambda row: rows[row], 8, tmp_path, {"title": "t", "source_digest": "d"}, lambda done, total: None)
    found = open_templates(tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(found.who.arrays().values(), one.who.arrays().values()))
    assert (found.images.images(slice(None)) == one.images.images(slice(None))).all()
    (tmp_path / "images.u8").write_bytes(b"x")
    with pytest.raises(UserError, match="no whole template set"):
        open_templates(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"probes": np.array([99])}, "a template is named that is not there"),
        ({"left": np.array([0])}, "different lengths"),
        ({"weight": np.full(60, np.nan, np.float32)}, "a weight that is none"),
        ({"galleries": {}}, "no gallery"),
        ({"subject": np.zeros(30, np.int64)}, "a template has no image"),
    ],
)
def test_templates_that_cannot_be_are_refused(change, said):
    with pytest.raises(UserError, match=said):
        a_set(12, **change)


def test_genuine_pairs_tell_who_is_who_where_nothing_else_does():
    left, right, same = np.array([0, 1, 3, 0]), np.array([1, 2, 4, 3]), np.array([True, True, True, False])
    found = subjects_of(6, left, right, same)
    assert found[0] == found[1] == found[2] != found[3] == found[4] != found[5] != found[0]


# ---- the embedded world ----


@pytest.fixture
def world(monkeypatch):
    """The embedded world's set with 24 people, and three distractors in each gallery."""
    from synthbench.world import templates as world

    monkeypatch.setattr(world, "PEOPLE", 24)
    monkeypatch.setattr(world, "DISTRACTORS", 3)
    monkeypatch.setattr(world, "IMAGES", 24 * world.PER_PERSON + 6)
    return world


def test_the_worlds_templates_show_people_by_stills_and_videos(world):
    images, columns, galleries = world.world_templates("world-templates", 16)
    who = Templates(**columns, galleries=galleries)
    assert not who.faults() and len(images) == len(who.template) == world.IMAGES
    assert (who.same == (who.subject[who.left] == who.subject[who.right])).all() and who.same.sum() == 48
    assert [len(rows) for rows in galleries.values()] == [15, 15] and not set(galleries["G1"]) & set(galleries["G2"])
    video = np.flatnonzero(who.template == 2)
    assert len(video) == world.FRAMES and len(set(who.media[video])) == 1 and len(set(who.media[who.template == 0])) == world.STILLS
    with pytest.raises(UserError, match="no template set 'world-x'"):
        world.world_templates("world-x", 16)


def test_a_run_a_comparison_and_a_network_from_elsewhere_have_them(world, here, capsys):
    from pathlib import Path

    from synthbench.pipeline import compare, evaluation, run
    from synthbench.report import parts
    from synthbench.results import further, record, terminal

    protocol = (here / "tiny.yaml").read_text()
    (here / "search.yaml").write_text(protocol + "  templates: {far: [1e-2], rank: [1, 5], fpir: [0.5]}\ntemplates: [world-templates]\n")
    result = run.run(run.Request("procedural", Path("runs"), "4x3", "search.yaml", tracking=False))
    found = {score["metric"]: score for score in result["scores"]}
    name = "templates/world-templates"
    assert found[f"{name}/rank_1"]["n"] == 48 and found[f"{name}/by_chance/rank_5"]["value"] == pytest.approx(100 * 5 / 15)
    assert {f"{name}/untrained/rank_1", f"{name}/tpir_at_fpir_5e-1", f"{name}/tar_at_far_1e-2"} <= found.keys()
    assert found[f"{name}/rank_1"]["value"] > 3 * found[f"{name}/by_chance/rank_1"]["value"]
    assert record.cell(result["baseline"], f"{name}/untrained/rank_1") == record.cell(result, f"{name}/untrained/rank_1")

    real = run.run(run.Request("real", Path("runs"), None, "search.yaml", tracking=False))
    (comparison,) = compare.compare(compare.Request((real["run"], result["run"]), Path("runs"), tracking=False))
    cell = comparison["rows"][1]["cells"][f"{name}/rank_1"]
    assert cell["value"] == found[f"{name}/rank_1"]["value"] and cell["chance"] == pytest.approx(100 / 15)
    assert further.NOTES["templates"] in comparison["notes"]
    (grid,) = parts.templates({"one": real, "two": result})
    assert [row[0] for row in grid.rows] == ["one", "two", "untrained network", "chance"]
    assert grid.header[1:] == ["TAR at FAR 1e-2", "rank 1", "rank 5", "TPIR at FPIR 5e-1"]
    assert grid.rows[1][2] == record.cell(result, f"{name}/rank_1", 1)

    (again,) = evaluation.evaluate(evaluation.Request((result["run"],), Path("runs"), protocol="search.yaml"))
    theirs = {score["metric"]: score["value"] for score in again["scores"] if score["metric"].startswith("templates/")}
    assert theirs == {metric: found[metric]["value"] for metric in found if metric.startswith(name) and "untrained" not in metric}
    (alone,) = evaluation.evaluate(evaluation.Request((result["run"],), Path("runs"), ("world-templates",), protocol="search.yaml"))
    capsys.readouterr()
    terminal.show_evaluations([alone])
    assert "template set world-templates, %" in capsys.readouterr().out and alone["benchmarks"] == []
