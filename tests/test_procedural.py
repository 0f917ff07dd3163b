from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.transform import Rotation

from synthbench.generators.procedural import Config, Procedural
from synthbench.plugin import Context
from synthbench.seeds import derive
from synthbench.types import Slot, UserError
from synthbench.world import heads, renderer
from synthbench.world.pairs import ALIKE, GROUP, TONES, TWIN_FEATURES, WORLD_BENCHMARKS, tone_groups, world_pairs


def some(count: int, part: str = "train") -> tuple[dict, dict]:
    """People and nuisance as heads.render gets them, in double precision."""
    caught = {}
    identity = torch.arange(count)
    original = heads.render
    try:
        heads.render = lambda p, n, resolution: caught.update(p=p, n=n)
        renderer.faces(part, identity, identity * 0, 32)
    finally:
        heads.render = original
    return {k: v.double() for k, v in caught["p"].items()}, {k: v.double() for k, v in caught["n"].items()}


def test_draws_are_splitmix64_of_the_address():
    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    golden, table = 0x9E3779B97F4A7C15, {"a": ("uniform", 2.0, 5.0), "b": ("normal", 1.0, 0.5)}
    got = renderer.draw(table, "judge", torch.tensor([7, 8]), torch.tensor([3, 3]), seed=5)
    key = derive(5, "world", "judge", "a", "b")
    image = mix((mix((key + 8 * golden) % 2**64) + 3 * golden) % 2**64)
    u = [((mix((image + column * golden) % 2**64) >> 11) + 0.5) / 2**53 for column in (1, 2)]
    assert got[1, 0] == pytest.approx(2 + 3 * u[0], rel=1e-6)
    assert got[1, 1] == pytest.approx(1 + 0.5 * float(np.clip(stats.norm.ppf(u[1]), -2.5, 2.5)), rel=1e-6)


def test_people_follow_one_distribution_in_every_part_and_never_meet():
    parts = [renderer.people(part, 0, 400) for part in renderer.PARTS]
    tone, jaw = list(renderer.PERSON).index("tone"), list(renderer.PERSON).index("jaw_width")
    assert stats.kstest(torch.cat(parts)[:, tone].numpy(), "uniform").pvalue > 1e-3
    assert stats.ks_2samp(parts[0][:, jaw].numpy(), parts[4][:, jaw].numpy()).pvalue > 1e-3
    assert len(torch.unique(torch.cat(parts), dim=0)) == 400 * len(parts)
    assert torch.equal(renderer.people("train", 100, 5), parts[0][100:105])
    assert not torch.equal(renderer.people("train", 0, 5, seed=1), parts[0][:5])
    correlation = np.corrcoef(torch.cat(parts).numpy().T) - np.eye(len(renderer.PERSON))
    assert np.abs(correlation).max() < 0.11


def test_unknown_part_is_the_users_mistake():
    with pytest.raises(UserError, match="train, judge"):
        renderer.people("test", 0, 1)


@pytest.mark.parametrize("resolution", [32, 50, 112])
def test_a_face_does_not_depend_on_its_company(resolution):
    identity, sample = torch.arange(11), torch.arange(11) % 3
    together = renderer.faces("train", identity, sample, resolution)
    assert together.shape == (11, 3, resolution, resolution) and together.dtype == torch.uint8
    for i in (0, 4, 10):
        assert torch.equal(renderer.faces("train", identity[i : i + 1], sample[i : i + 1], resolution)[0], together[i])
    order = torch.tensor([9, 2, 5])
    assert torch.equal(renderer.faces("train", identity[order], sample[order], resolution), together[order])


def test_the_same_face_at_every_size():
    identity = torch.arange(8)
    small, large = (renderer.faces("train", identity, identity * 0, r).float() for r in (32, 64))
    apart = (torch.nn.functional.avg_pool2d(large, 2) - small).abs().mean(dim=(1, 2, 3))
    other = (small - small.roll(1, 0)).abs().mean(dim=(1, 2, 3))
    assert apart.max() < 3 and other.min() > 4 * apart.max()


def test_rotation_is_yaw_then_pitch_then_roll():
    yaw, pitch, roll = torch.tensor([[20.0], [-10.0], [5.0]], dtype=torch.float64)
    got = heads._rotation(yaw, pitch, roll)[0].numpy()
    assert np.allclose(got @ got.T, np.eye(3))
    want = Rotation.from_euler("ZXY", [5, -10, 20], degrees=True).as_matrix()
    assert np.allclose(got, want)


def test_projected_ellipsoids_satisfy_their_equation():
    p, n = some(3)
    turn = heads._rotation(n["yaw"], n["pitch"], n["roll"])
    frame, shape = heads._alignment(p, n, turn), heads._shape(p, n)
    turns = turn[:, None].repeat(1, shape.shape[1], 1, 1)
    quadratic, linear, _ = heads._projected(shape, turns, frame)
    u, v = np.meshgrid(np.linspace(-50, 50, 21), np.linspace(-50, 50, 21))
    u, v = u.ravel(), v.ravel()
    hits = 0
    for b in range(3):
        for k in range(shape.shape[1]):
            disc = quadratic[b, k].numpy() @ np.stack([u * u, u * v, v * v, u, v, 1 + 0 * u])
            seen = disc > 0
            depth = linear[b, k].numpy() @ np.stack([u, v, 1 + 0 * u])[:, seen] + np.sqrt(disc[seen])
            camera = np.vstack([frame[b].numpy() @ np.stack([u, v, 1 + 0 * u])[:, seen], depth])
            centre, radii, tilt = shape[b, k, :3].numpy(), shape[b, k, 3:6].numpy(), float(shape[b, k, 6])
            own = Rotation.from_euler("X", tilt).as_matrix().T @ (turn[b].numpy().T @ camera - centre[:, None])
            assert np.allclose(((own / radii[:, None]) ** 2).sum(0), 1, atol=1e-6)
            hits += seen.sum()
    assert hits > 1000


def test_alignment_is_the_least_squares_similarity_of_the_five_landmarks():
    p, n = some(4)
    n = n | {"tilt": n["tilt"] * 0, "shift_x": n["tilt"] * 0, "shift_y": n["tilt"] * 0, "scale": n["scale"] * 0 + 1}
    turn = heads._rotation(n["yaw"], n["pitch"], n["roll"])
    frame = heads._alignment(p, n, turn)
    template = np.array(heads.TEMPLATE) - 55.5
    for b in range(4):
        mouth = float(p["mouth_width"][b] * (1 + 0.12 * n["smile"][b]))
        eye, tip = float(p["eye_gap"][b]), (float(p["nose_bend"][b]), float(p["nose_y"][b]), 43 + float(p["nose_out"][b]))
        y = [float(p["eye_y"][b]), float(p["mouth_y"][b])]
        head = np.array([(-eye, y[0], 38), (eye, y[0], 38), tip, (-mouth, y[1], 40), (mouth, y[1], 40)])
        seen = (head @ turn[b].numpy().T)[:, :2]
        rows = [[(x, -y, 1, 0), (y, x, 0, 1)] for x, y in template]
        c, s, tx, ty = np.linalg.lstsq(np.array(rows).reshape(10, 4), seen.ravel(), rcond=None)[0]
        assert np.allclose(frame[b].numpy(), [[c, -s, tx], [s, c, ty]], atol=1e-9)


def test_resampling_keeps_the_mean_and_blurs_by_sigma():
    kernel = heads._resample(torch.tensor([0.0, 2.0], dtype=torch.float64), 224, 112)
    assert torch.allclose(kernel.sum(-1), torch.ones(2, 112, dtype=torch.float64))
    place = torch.arange(224) * 0.5
    middle = kernel[1, 56]
    mean = (middle * place).sum()
    variance = (middle * (place - mean) ** 2).sum()
    assert variance.sqrt() == pytest.approx(2.0, rel=0.05)


def test_eyes_lie_where_the_template_wants_them():
    """Opening the eyes changes the picture at the template's eyes and nowhere else."""
    identity = torch.arange(6)
    person, n = renderer.people("inquiry", 0, 6), renderer.nuisance("inquiry", identity, identity, frontal=True)
    n["yaw"] = n["yaw"] * 0
    shut = n | {"blink": torch.full_like(n["yaw"], 0.9)}
    change = (renderer.render(person, n, 112).float() - renderer.render(person, shut, 112).float()).abs().sum(dim=(0, 1))
    for half, (x, y) in ((slice(0, 56), heads.TEMPLATE[0]), (slice(56, 112), heads.TEMPLATE[1])):
        weight = change[:, half] / change[:, half].sum()
        columns, lines = torch.arange(112)[half].float(), torch.arange(112).float()
        assert abs(float((weight.sum(0) * columns).sum()) - x) < 2.5
        assert abs(float((weight.sum(1) * lines).sum()) - y) < 3.5


def test_frontal_faces_tell_people_apart():
    """Nearest neighbour on raw pixels: one neutral frontal view finds the other among 60 people."""
    identity = torch.arange(60)
    first, second = (renderer.faces("inquiry", identity, identity * 0 + s, 32, frontal=True).float()[:, :, 4:28, 6:26] for s in (0, 1))
    found = torch.cdist(first.flatten(1), second.flatten(1)).argmin(1)
    assert (found == identity).float().mean() > 0.8


@pytest.mark.parametrize("name", WORLD_BENCHMARKS)
def test_pairs_have_ten_even_folds_of_disjoint_people(name):
    images, left, right, same = world_pairs(name, 32, pairs=160)
    assert images.shape == (160, 3, 32, 32) and len(left) == len(right) == len(same) == 160
    for fold in range(10):
        rows = slice(fold * 16, fold * 16 + 16)
        assert same[rows].sum() == 8
        assert set(left[rows] // 2) | set(right[rows] // 2) == set(range(fold * 8, fold * 8 + 8))
    assert np.array_equal(left // 2 == right // 2, same)
    assert (left % 2 == 0).all() and (right % 2 == 1).all()


def test_pairs_are_reproducible_and_ask_for_whole_folds():
    one, again, other = (world_pairs("world-mixed", 32, pairs=40, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    with pytest.raises(UserError, match="multiple of 20"):
        world_pairs("world-mixed", 32, pairs=50)
    with pytest.raises(UserError, match="world-profile"):
        world_pairs("lfw", 32)


def of_each_row(name: str, pairs: int) -> torch.Tensor:
    """The person (pairs, parameters) on each image of a benchmark, caught where it is rendered."""
    caught = []
    render = renderer.render
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renderer, "render", lambda people, nuisance, r: caught.append(people) or torch.zeros(len(people), 3, r, r))
        world_pairs(name, 16, pairs)
    assert renderer.render is render and torch.equal(*caught)
    return torch.stack(caught, 1).flatten(0, 1)


def test_twins_differ_in_two_features_and_all_others_do_in_many() -> None:
    _, left, right, same = world_pairs("world-twins", 16, pairs=120)
    person = of_each_row("world-twins", 120)
    apart = person[left] != person[right]
    assert apart[same].sum() == 0
    assert (apart[~same].sum(1) == 2).all() and (~same).sum() == 60
    names, which = list(renderer.PERSON), [tuple(row.nonzero().flatten().tolist()) for row in apart[~same]]
    for a, b, columns in zip(person[left[~same]], person[right[~same]], which):
        for column in columns:
            kind, _, spread = renderer.PERSON[names[column]]
            assert names[column] in TWIN_FEATURES and kind == "normal"
            assert abs(a[column] - b[column]).item() == pytest.approx(2.5 * spread, rel=1e-4)
            assert abs(b[column] - renderer.PERSON[names[column]][1]) <= 2.5 * spread * 1.0001
    assert len(set(which)) == 28 and which[0::2] == which[1::2]  # each is left once and right once; 28 ways to take two of eight
    strangers = of_each_row("world-mixed", 120)
    _, left, right, same = world_pairs("world-mixed", 16, pairs=120)
    assert ((strangers[left] != strangers[right])[~same].sum(1) == len(names)).all()


def test_twins_are_liker_than_strangers_and_not_the_same_picture() -> None:
    person = of_each_row("world-twins", 120)[::2]
    identity = torch.arange(len(person))
    shown = renderer.render(person, renderer.nuisance("inquiry", identity * 0, identity * 0, frontal=True), 32).float()
    twins = (shown[0::2] - shown[1::2]).abs().mean((1, 2, 3))
    strangers = (shown[0::2] - shown[0::2].roll(1, 0)).abs().mean((1, 2, 3))
    assert (twins > 1).all() and twins.mean() < 0.3 * strangers.mean()  # grey levels


def test_groups_are_of_their_tone_and_every_pair_is_within_one() -> None:
    pairs, group = 160, tone_groups(160)
    _, left, right, same = world_pairs("world-groups", 16, pairs=pairs)
    person = of_each_row("world-groups", pairs)
    tone = person[:, list(renderer.PERSON).index("tone")]
    assert (tone[left] * 4).floor().tolist() == (tone[right] * 4).floor().tolist() == group.tolist()
    for number in range(len(TONES)):
        for fold in range(10):
            own = (group == number) & (np.arange(pairs) // 16 == fold)
            assert (same[own].sum(), (~same[own]).sum()) == (2, 2)
    spread = tone[::2] * 4 % 1  # within a group tones are as they are drawn elsewhere: uniform
    assert 0.4 < spread.mean() < 0.6 and spread.min() < 0.1 and spread.max() > 0.9
    first = 1_000_000 * list(WORLD_BENCHMARKS).index("world-groups")
    others = [i for i, name in enumerate(renderer.PERSON) if name != "tone"]
    assert torch.equal(person[::2, others], renderer.people("benchmark", first, pairs // 2)[:, others])
    for name, size in (("world-groups", 100), ("world-twins", 60)):
        with pytest.raises(UserError, match=f"even folds of {name}; use a multiple of {160 if size == 100 else 40}"):
            world_pairs(name, 16, pairs=size)


def test_look_alike_impostors_share_more_than_chance():
    columns = [list(renderer.PERSON).index(name) for name in GROUP]
    distance = {}
    for name in ("world-mixed", *ALIKE):
        _, left, right, same = world_pairs(name, 32, pairs=200)
        first = 1_000_000 * list(WORLD_BENCHMARKS).index(name)
        person = renderer.people("benchmark", first, 100)[:, columns]
        person = person / person.std(0)
        distance[name] = (person[left[~same] // 2] - person[right[~same] // 2]).norm(dim=1).mean()
    assert max(distance[name] for name in ALIKE) < 0.7 * distance["world-mixed"]


def test_the_generator_renders_people_of_its_own_part(tmp_path):
    context = Context(tmp_path, 3, 32, torch.device("cpu"), None, None)
    slots = [Slot(2, 0), Slot(2, 1), Slot(9, 4)]
    (batch,) = Procedural(Config()).generate(slots, context)
    want = renderer.faces("generator", torch.tensor([2, 2, 9]), torch.tensor([0, 1, 4]), 32, seed=3)
    assert torch.equal(batch.images, want) and batch.identity.tolist() == [2, 2, 9]
    easy = Procedural(Config(sample={"difficulty": 0.0})).generate(slots, context)
    assert not torch.equal(next(easy).images, want)
