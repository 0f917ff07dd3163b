"""Draws the people of the embedded world: an analytic head made of ellipsoids, painted and lit, aligned as ArcFace wants it.

Nothing is traced step by step. Under parallel projection the depth of an ellipsoid at a pixel is a linear function plus the root of a
quadratic one, and every painted feature is a function of a few quadratic forms of the point that was hit, so that a batch of faces is
two small matrix products and some element-wise work. Head coordinates are template pixels (112 px frame, 1 px = 1.8 mm): x to the
right of the picture, y down, z out of the face, the origin between the ears at the height of the nose tip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

FRAME = 112.0  # px, side of the frame in which the template is given
TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))  # InsightFace arcface_src
CHUNK = 16_384  # picture points worked on at once, so that they stay in the cache
MERGE = 1.6  # px, how softly the ellipsoids of a head melt together

Row = tuple[float | Tensor, ...]


def render(people: Mapping[str, Tensor], nuisance: Mapping[str, Tensor], resolution: int) -> Tensor:
    """Faces (B, 3, resolution, resolution) uint8 RGB of people (name -> (B,)) under nuisance (name -> (B,)).

    Drawn at twice the size up to 48 px, above that at the size itself; edges are smoothed analytically in both.
    """
    size = resolution * 2 if resolution <= 48 else resolution
    count = len(next(iter(people.values())))
    step = max(1, CHUNK // size**2)
    out = torch.empty(count, 3, resolution, resolution, dtype=torch.uint8)
    for start in range(0, count, step):
        rows = slice(start, start + step)
        p = {name: column[rows] for name, column in people.items()}
        n = {name: column[rows] for name, column in nuisance.items()}
        out[rows] = _finish(_picture(p, n, size), n, resolution)
    return out


def _table(rows: list[Row], like: Tensor) -> Tensor:
    """(B, rows, columns) from rows of numbers and (B,) columns."""
    return torch.stack([torch.stack([torch.as_tensor(x, dtype=like.dtype).expand_as(like) for x in row], -1) for row in rows], 1)


def _shape(p: Mapping[str, Tensor], n: Mapping[str, Tensor]) -> tuple[Tensor, int, int]:
    """Ellipsoids (B, K, 7): centre, radii, tilt about the x axis in radians; first the skin, then the hair, then the torso."""
    wide, jaw, chin, long = p["face_width"], p["jaw_width"], p["chin_length"], p["face_length"]
    drop = 5 * n["open"]
    fat = p["fat"] + 0.03 * (n["age"] - 35)
    eye_x, eye_y, mouth_y, mouth_w = p["eye_gap"], p["eye_y"], p["mouth_y"] + 0.4 * drop, p["mouth_width"]
    tip_y, tip_z, nose_w, bridge = p["nose_y"], 43 + p["nose_out"], p["nose_width"], p["bridge"]
    bridge_y, bridge_z = (eye_y + tip_y) / 2, 40 + 0.5 * p["nose_out"] + bridge
    slope = torch.atan((p["nose_out"] + 1) / (tip_y - eye_y))
    lip_u, lip_l = p["lip_upper"], p["lip_lower"]
    rows: list[Row] = [
        (0, -36, -8, 41 * wide, 46, 52 + p["forehead"], 0),
        (0, -4 * long, 3, 37.5 * wide, 44 * long, 40, 0),
        (0, 20 + drop * 0.5, 8, jaw + fat, 22 * long, 33, 0),
        (0, chin - 8 + drop, 29, p["chin_width"], 10, 13 + p["chin_out"], 0),
        (-17, 3, 12, 19 + fat, 20, 27 + p["cheek"], 0),
        (17, 3, 12, 19 + fat, 20, 27 + p["cheek"], 0),
        (0, eye_y - 11, 14, 31, 13, 29 + p["brow_ridge"], 0),
        (p["nose_bend"] / 2, bridge_y, bridge_z - 9, 2.2 + 0.42 * nose_w, (tip_y - eye_y) * 0.75, 12.5, -slope),
        (p["nose_bend"], tip_y - 0.5, tip_z - 9, p["nose_tip"], p["nose_tip"] * 0.95, 10.0, -p["nose_turn"]),
        (-nose_w * 0.6, tip_y + 1.0, 38 + 0.2 * p["nose_out"], nose_w * 0.44, 5.0, 10.5, 0),
        (nose_w * 0.6, tip_y + 1.0, 38 + 0.2 * p["nose_out"], nose_w * 0.44, 5.0, 10.5, 0),
        (0, mouth_y - 0.5 * lip_u, 28, mouth_w * 0.95, lip_u + 5, 16 + 0.35 * lip_u, 0),
        (0, mouth_y + 0.6 * lip_l + drop * 0.6, 28, mouth_w * 0.85, lip_l + 4, 15.5 + 0.35 * lip_l, 0),
        (-eye_x, eye_y, 26, 9, 7.5, 14.5, 0),
        (eye_x, eye_y, 26, 9, 7.5, 14.5, 0),
        (-37.5 * wide - p["ear_out"], -10, -5, 3.2 + p["ear_out"], p["ear_size"], 8, 0.2),
        (37.5 * wide + p["ear_out"], -10, -5, 3.2 + p["ear_out"], p["ear_size"], 8, 0.2),
        (0, 60, -12, 25 + 3 * p["male"] + fat, 60, 24, 0.0),
    ]
    skin = len(rows)
    volume = p["hair_volume"] + n["hair_volume"]
    length = (p["hair_length"] + n["hair_length"]).clamp(0, 1)
    lock = 9 * (length * 2 - 0.5).clamp(0, 1) + 0.01
    rows += [
        (0, -37 - 0.3 * volume, -9, 41.5 * wide + 0.7 * volume, 46.5 + volume, 53 + p["forehead"] + 0.6 * volume, 0),
        (0, -20 + 30 * length, -24, (40 + 10 * length) * wide + 0.6 * volume, 44 + 56 * length, 36, 0),
        (-37 * wide - 0.4 * volume, -20 + 38 * length, 2, lock, 20 + 42 * length, lock * 1.6, 0),
        (37 * wide + 0.4 * volume, -20 + 38 * length, 2, lock, 20 + 42 * length, lock * 1.6, 0),
    ]
    hair = len(rows)
    rows += [(0, 104, -20, 78 + 12 * p["male"], 44, 34, 0)]
    return _table(rows, wide), skin, hair


def _rotation(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """(B, 3, 3) from head to camera, angles in degrees."""
    (cy, cp, cr), (sy, sp, sr) = zip(
        *((torch.cos(a), torch.sin(a)) for a in (yaw * math.pi / 180, pitch * math.pi / 180, roll * math.pi / 180))
    )
    return _table(
        [
            (cr * cy - sr * sp * sy, -sr * cp, cr * sy + sr * sp * cy),
            (sr * cy + cr * sp * sy, cr * cp, sr * sy - cr * sp * cy),
            (-cp * sy, sp, cp * cy),
        ],
        yaw,
    )


def _alignment(p: Mapping[str, Tensor], n: Mapping[str, Tensor], turn: Tensor) -> Tensor:
    """(B, 2, 3) from the frame (u, v, 1), centred, to the camera plane: the similarity that brings five landmarks to the template."""
    eye, mouth = p["eye_gap"], p["mouth_width"] * (1 + 0.12 * n["smile"])
    points = _table(
        [
            (-eye, p["eye_y"], 38),
            (eye, p["eye_y"], 38),
            (p["nose_bend"], p["nose_y"], 43 + p["nose_out"]),
            (-mouth, p["mouth_y"], 40),
            (mouth, p["mouth_y"], 40),
        ],
        eye,
    )
    seen = (points @ turn.transpose(1, 2))[..., :2]
    want = torch.tensor(TEMPLATE) - (FRAME - 1) / 2
    a, b = torch.view_as_complex(want - want.mean(0)), torch.view_as_complex((seen - seen.mean(1, keepdim=True)).contiguous())
    factor = (b * a.conj()).sum(1) / (a * a.conj()).sum().real  # least squares, frame to camera
    factor = factor / n["scale"] * torch.polar(torch.ones_like(eye), n["tilt"] * math.pi / 180)
    shift = seen.mean(1) - torch.view_as_real(factor * torch.complex(want.mean(0)[0] + n["shift_x"], want.mean(0)[1] + n["shift_y"]))
    return _table([(factor.real, -factor.imag, shift[:, 0]), (factor.imag, factor.real, shift[:, 1])], eye)


def _depths(shape: Tensor, turn: Tensor, frame: Tensor, monomials: Tensor) -> tuple[Tensor, Tensor]:
    """Depth along the view of every ellipsoid (B, K, P), falling on outside it, and its signed inner distance to the outline in px."""
    ct, st = torch.cos(shape[..., 6]), torch.sin(shape[..., 6])
    zero, one = torch.zeros_like(ct), torch.ones_like(ct)
    tilt = torch.stack([one, zero, zero, zero, ct, -st, zero, st, ct], -1).unflatten(-1, (3, 3))
    axes = turn @ tilt / shape[..., None, 3:6]  # columns: unit axes over radii
    q = axes @ axes.transpose(-1, -2)  # (P - C)' q (P - C) = 1
    centre = (turn @ shape[..., :3, None])[..., 0]
    ray = frame[:, None].expand(-1, shape.shape[1], -1, -1).clone()
    ray[..., 2] -= centre[..., :2]
    qzz = q[..., 2, 2, None, None]
    lean = (q[..., 2:, :2] @ ray) / qzz  # (B, K, 1, 3)
    form = lean.transpose(-1, -2) @ lean - ray.transpose(-1, -2) @ q[..., :2, :2] @ ray / qzz
    form[..., 2, 2] += 1 / q[..., 2, 2]
    rows = torch.stack(
        [form[..., 0, 0], 2 * form[..., 0, 1], form[..., 1, 1], 2 * form[..., 0, 2], 2 * form[..., 1, 2], form[..., 2, 2]], -1
    )
    disc = rows @ monomials
    line = -lean[..., 0, :]
    line[..., 2] += centre[..., 2]
    depth = (line @ monomials[3:]).add_(disc * disc.abs().add_(1e-3).rsqrt_())  # falls on steeply outside the outline
    flat = q[..., :2, :2] - q[..., :2, 2:] @ q[..., 2:, :2] / qzz  # outline ellipse in the camera plane
    radius = (flat[..., 0, 0] * flat[..., 1, 1] - flat[..., 0, 1] ** 2).clamp(min=1e-9) ** -0.25
    return depth, disc.mul_((q[..., 2, 2] * radius / 2)[..., None])


# The point (x, y, z) that was hit, as the forms need it; a = |x| paints both sides at once, s is the side.
MONOMIALS = ("1", "x", "a", "y", "z", "xx", "ay", "xy", "yy", "zz", "s")


def _monomials(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    a = x.abs()
    return torch.stack([torch.ones_like(x), x, a, y, z, x * x, a * y, x * y, y * y, z * z, torch.sign(x)], 1)


def _forms(rows: list[dict[str, float | Tensor]], like: Tensor) -> Tensor:
    return _table([tuple(row.get(name, 0.0) for name in MONOMIALS) for row in rows], like)


def _spot(cx, cy, rx, ry, tilt=0.0, side="a", scale=1.0) -> dict:
    """((along the tilted axis) / rx)^2 + (across / ry)^2, on both sides (side "a") or one ("x")."""
    tilt = torch.as_tensor(tilt)
    c, s = torch.cos(tilt), torch.sin(tilt)
    xx, yy, xy = c * c / rx**2 + s * s / ry**2, s * s / rx**2 + c * c / ry**2, 2 * c * s * (1 / rx**2 - 1 / ry**2)
    form = {"xx": xx, "yy": yy, side + "y": xy, side: -2 * xx * cx - xy * cy, "y": -2 * yy * cy - xy * cx}
    form["1"] = xx * cx**2 + yy * cy**2 + xy * cx * cy
    return {name: value * scale for name, value in form.items()}


def _arc(cx, cy, height, width, tilt=0.0, side="a", scale=1.0) -> dict:
    """y below the parabola that stands `height` above (cx, cy) and meets it at cx +- width, leaning by `tilt`."""
    bow = height / width**2
    form = {"1": height - cy - bow * cx**2 + tilt * cx, side: 2 * bow * cx - tilt, "xx": -bow, "y": 1.0}
    return {name: value * scale for name, value in form.items()}


def _minus(form: dict) -> dict:
    return {name: -value for name, value in form.items()}


def _ball(x, y, z, r) -> dict:
    k = 1 / r**2
    return {"xx": k, "yy": k, "zz": k, "x": -2 * x * k, "y": -2 * y * k, "z": -2 * z * k, "1": (x * x + y * y + z * z) * k}


def _paint(p: Mapping[str, Tensor], n: Mapping[str, Tensor], m: Tensor, sharp: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Layers of the skin, from below: opacities, each (B, P), and colours, each (B, 3). `sharp`: 1 / px width of an edge."""
    ex, ey, ew, eh, tilt = p["eye_gap"], p["eye_y"], p["eye_width"], p["eye_height"], p["eye_tilt"]
    age = ((n["age"] - 30) / 40).clamp(0, 1.3) * p["wrinkle"]
    up = eh * (1.05 - n["blink"]) * (1 - 0.25 * n["smile"].clamp(0, 1)) - 0.5 * age
    lo = eh * 0.55
    by = ey - p["brow_y"] - 2.2 * n["brow_raise"]
    bw, bt = p["brow_width"], p["brow_tilt"] - 0.08 * n["brow_raise"]
    mw = p["mouth_width"] * (1 + 0.14 * n["smile"])
    my, lu, ll = p["mouth_y"], p["lip_upper"] * (1 - 0.25 * age), p["lip_lower"] * (1 - 0.2 * age)
    bow, gap = 3.2 * n["smile"] + p["mouth_bow"], 7.5 * n["open"] + 1.5 * n["smile"].clamp(0, 1) * n["teeth"]
    nw, ny = p["nose_width"], p["nose_y"]
    gx, gy = 2.2 * n["gaze_x"], 1.2 * n["gaze_y"]
    ir = p["iris_size"]
    off = 0.3 * ir
    lx, ly = torch.sin(n["light_az"] * math.pi / 180) * off, -off

    def eye(cx_shift, cy, r):
        cx = ex
        g = cx_shift
        k = 1 / r**2
        return {"xx": k, "a": -2 * cx * k, "x": -2 * g * k, "s": 2 * cx * g * k, "y": -2 * cy * k, "yy": k, "1": (cx**2 + g**2 + cy**2) * k}

    moles = [
        _ball(p[f"mole{i}_x"], p[f"mole{i}_y"], 43 - 0.016 * p[f"mole{i}_x"] ** 2, 1.7 + 0 * ex) | {"zz": 0.0, "z": 0.0} for i in range(3)
    ]
    for i, mole in enumerate(moles):
        r2 = p[f"mole{i}_r"] ** 2
        mole.update({"xx": 1 / r2, "yy": 1 / r2, "x": -2 * p[f"mole{i}_x"] / r2, "y": -2 * p[f"mole{i}_y"] / r2})
        mole["1"] = (p[f"mole{i}_x"] ** 2 + p[f"mole{i}_y"] ** 2) / r2
    glows = {
        "socket": _spot(ex - 1, ey - 3, 10.5, 6.0),
        "inner": _spot(ex * 0.42, ey + 1, 3.2, 6.0),
        "bag": _spot(ex, ey + 6.5, 7.0, 2.2, 0.12),
        "under_nose": _spot(0 * ex, ny + 5.5, nw * 0.75, 2.2),
        "side_nose": _spot(nw * 1.05, ny - 1, 1.6, 4.5),
        "nostril": _spot(nw * 0.42, ny + 3.6, nw * 0.24, 1.3, 0.15),
        "under_lip": _spot(0 * ex, my + ll + 3.2 + gap, mw * 0.5, 2.0),
        "neck": _spot(0 * ex, 52 + p["chin_length"] - 40, 40.0, 9.0),
        "blush": _spot(20 + 0 * ex, 1.0, 10.0, 8.0),
        "corner": _spot(mw + 0.6, my + bow * -0.6, 1.8, 2.0),
        "chin_hair": _spot(0 * ex, p["chin_length"] - 3, p["chin_width"] * 0.95, 11.0, 0.0, "x"),
    }
    iris = [eye(gx, ey + gy, ir), eye(gx, ey + gy, ir * 0.45), eye(gx + lx, ey + gy + ly, 1.15 + 0 * ex)]
    gauss = torch.exp(-(_forms(list(glows.values()) + moles + iris[2:], ex) @ m))
    g = dict(zip([*glows, "mole0", "mole1", "mole2", "glint"], gauss.unbind(1)))
    bands = {
        "lash": _arc(ex, ey, up, ew, tilt, scale=0.95),
        "crease": _arc(ex, ey - 2.4 - p["lid"], up * 0.9, ew * 1.1, tilt, scale=1.0),
        "fold": {"1": -(nw + 1.5) + 0.55 * (ny + 2), "a": 1.0, "y": -0.55},
        "brow_1": _arc(0 * ex, by - 9, 1.5, 24.0, scale=0.9),
        "brow_2": _arc(0 * ex, by - 15, 1.8, 24.0, scale=0.9),
        "frown": {"1": -3.2 + 0 * ex, "a": 1.0},
        "brow": _arc(ex + 0.5, by, p["brow_arch"], bw, bt) | {},
        "tache": _arc(0 * ex, my - lu - 3.0, 1.8, mw, scale=1 / p["tache_size"]),
        "line": _arc(0 * ex, my - bow, -bow, mw, side="x", scale=0.9),
    }
    bands["brow"] = {name: value / p["brow_thick"] for name, value in bands["brow"].items()}
    band = torch.exp(-(_forms(list(bands.values()), ex) @ m).square_())
    f = dict(zip(bands, band.unbind(1)))
    k = sharp
    edges = {
        "eye_up": _arc(ex, ey, up, ew, tilt, scale=k),
        "eye_lo": _minus(_arc(ex, ey, -lo, ew, tilt, scale=k)),
        "iris": _minus(iris[0]) | {"1": 1 - iris[0]["1"]},
        "pupil": _minus(iris[1]) | {"1": 1 - iris[1]["1"]},
        "brow_in": _minus(_spot(ex + 0.5, by - 0.4 * p["brow_arch"], bw, 40.0, scale=4.0)),
        "lip_up": _arc(0 * ex, my - bow, lu * 1.15 - bow, mw, side="x", scale=k),
        "lip_lo": _minus(_arc(0 * ex, my - bow, -(ll * 1.15 + gap) - bow, mw, side="x", scale=k)),
        "in_up": _arc(0 * ex, my - bow, -bow + 0.4 * gap * 0.3, mw * 0.92, side="x", scale=k),
        "in_lo": _minus(_arc(0 * ex, my - bow, -bow - gap, mw * 0.92, side="x", scale=k)),
        "teeth": _minus(_arc(0 * ex, my - bow, -bow - gap.clamp(max=3.0) * 0.75, mw * 0.9, side="x", scale=k)),
        "cheek_bare": _spot(0 * ex, -6.0 + p["beard_low"], 27.0, 26.0, 0.0, "x", scale=9.0),
        "beard_top": {"y": 0.4, "1": 1.0 + 0 * ex},
        "beard_end": {"y": -0.5, "1": 0.5 * (p["chin_length"] + 7)},
        "mouth_bare": _spot(0 * ex, my + 1.5, mw * 1.25, 6.5, 0.0, "x", scale=5.0),
        "tache_in": _minus(_spot(0 * ex, my - lu - 2, mw * 1.1, 9.0, 0.0, "x", scale=4.0)),
        "fold_in": _minus(_spot(p["mouth_width"], my - 9, 9.0, 9.0, scale=3.0)),
        "lens": _minus(_spot(ex * 1.04, ey + 1.5, n["lens"] * 1.12, n["lens"] * 0.9)),
    }
    bias = {"brow_in": 4.0, "cheek_bare": -9.0, "mouth_bare": -5.0, "tache_in": 4.0, "fold_in": 3.0, "lens": 1.0}
    for name, value in bias.items():
        edges[name] = {**edges[name], "1": edges[name]["1"] + value}
    raw = _forms(list(edges.values()), ex) @ m
    raw_of = dict(zip(edges, raw.unbind(1)))
    frame = torch.exp(-(raw_of["lens"] * 4.2 * n["rim"][:, None]).square())
    raw_of["iris"].mul_(0.5 * (ir * k)[:, None])
    raw_of["pupil"].mul_(0.25 * (ir * k)[:, None])
    e = dict(zip(edges, torch.sigmoid_(raw).unbind(1)))

    def c(x):
        return x[:, None]

    deep = c(age)
    brows = f["brow"] * e["brow_in"] * c(p["brow_dark"])
    dark = (
        0.30 * g["socket"]
        + 0.28 * g["inner"]
        + 0.55 * g["under_nose"]
        + 0.22 * g["side_nose"]
        + 0.35 * g["under_lip"]
        + 0.7 * g["neck"]
        + 0.25 * g["corner"]
        + (0.12 + 0.4 * deep) * g["bag"]
        + (0.10 + 0.5 * deep + 0.25 * c(n["smile"].clamp(0, 1))) * f["fold"] * e["fold_in"]
        + 0.35 * deep * (f["brow_1"] + f["brow_2"])
    )
    eye_open = e["eye_up"] * e["eye_lo"]
    near = g["socket"]
    lips = e["lip_up"] * e["lip_lo"]
    inside = e["in_up"] * e["in_lo"] * c((gap / 1.5).clamp(0, 1))
    beard = torch.maximum(
        e["cheek_bare"] * e["beard_top"] * e["mouth_bare"] * c(p["beard"]), g["chin_hair"] * e["mouth_bare"] * c(p["goatee"])
    )
    beard = torch.maximum(beard * e["beard_end"], f["tache"] * e["tache_in"] * c(p["tache"]))
    spots = g["mole0"] + g["mole1"] + g["mole2"]
    skin, hair = _skin_colour(p), _hair_colour(p, n)
    lip_colour = skin * torch.stack([0.92 + 0 * ex, 0.66 - 0.06 * p["lip_red"], 0.68 - 0.04 * p["lip_red"]], -1) + 0.03
    lip_colour = torch.lerp(lip_colour, torch.tensor([0.66, 0.12, 0.18]).expand_as(skin), c(n["makeup"] * (1 - p["male"])))
    white = torch.tensor([0.90, 0.88, 0.86]).expand_as(skin)
    layers = [
        (torch.ones_like(near), skin),
        (g["blush"] * c(p["blush"]), skin * torch.tensor([1.02, 0.74, 0.72])),
        (dark.clamp_(0, 0.9), skin * torch.tensor([0.52, 0.42, 0.40])),
        (spots.clamp_(0, 0.85), skin * torch.tensor([0.40, 0.28, 0.24])),
        (beard, hair * 0.9 + 0.02),
        (lips * 0.85, lip_colour),
        (f["line"] * e["tache_in"].clamp(max=1) * lips * 0.75, lip_colour * 0.35),
        (inside, lip_colour * 0.25),
        (inside * e["teeth"] * 0.92, white),
        (g["nostril"] * 0.85, skin * 0.22),
        (f["crease"] * near * 0.45, skin * 0.42),
        (brows, hair * 0.62 + 0.01),
        (eye_open, white),
        (eye_open * e["iris"], _iris_colour(p)),
        (eye_open * e["pupil"], white * 0.06),
        (eye_open * g["glint"] * 0.95, white * 1.1),
        (f["lash"] * near * (0.75 + 0.2 * c(1 - p["male"])), hair * 0.3),
        (frame * c(n["glasses"]), torch.stack([n["rim_dark"]] * 3, -1)),
    ]
    return [w for w, _ in layers], [colour for _, colour in layers]


def _ramp(t: Tensor, stops: tuple[tuple[float, float, float], ...]) -> Tensor:
    """(B, 3) colours at t in 0..1 on evenly spaced stops."""
    colours = torch.tensor(stops)
    at = t.clamp(0, 1) * (len(stops) - 1)
    low = at.floor().long().clamp(max=len(stops) - 2)
    return torch.lerp(colours[low], colours[low + 1], (at - low)[:, None])


def _skin_colour(p: Mapping[str, Tensor]) -> Tensor:
    tone = _ramp(p["tone"], ((0.95, 0.80, 0.72), (0.90, 0.71, 0.59), (0.80, 0.59, 0.45), (0.62, 0.42, 0.30), (0.42, 0.27, 0.20)))
    return (tone + p["undertone"][:, None] * torch.tensor([0.018, -0.004, -0.022])).clamp(0, 1)


def _hair_colour(p: Mapping[str, Tensor], n: Mapping[str, Tensor]) -> Tensor:
    colour = _ramp(p["hair_light"], ((0.07, 0.055, 0.05), (0.17, 0.11, 0.08), (0.33, 0.21, 0.13), (0.55, 0.39, 0.23), (0.78, 0.63, 0.40)))
    colour = colour + (p["hair_red"] * p["hair_light"].clamp(0.15, 1))[:, None] * torch.tensor([0.12, 0.0, -0.05])
    grey = torch.sigmoid((n["age"] - p["grey_age"]) / 5)[:, None] * 0.85
    return torch.lerp(colour.clamp(0.02, 1), torch.tensor([0.72, 0.71, 0.70]).expand_as(colour), grey)


def _iris_colour(p: Mapping[str, Tensor]) -> Tensor:
    return _ramp(p["iris"], ((0.14, 0.08, 0.05), (0.25, 0.15, 0.08), (0.36, 0.26, 0.12), (0.34, 0.42, 0.28), (0.32, 0.46, 0.58)))


def _picture(p: Mapping[str, Tensor], n: Mapping[str, Tensor], size: int) -> Tensor:
    """(B, 3, size, size) floats in 0..1."""
    count = len(p["tone"])
    grid = (torch.arange(size, dtype=torch.float32) + 0.5) * (FRAME / size) - FRAME / 2
    v, u = (g.flatten() for g in torch.meshgrid(grid, grid, indexing="ij"))
    plane = torch.stack([u * u, u * v, v * v, u, v, torch.ones_like(u)])  # (6, P)
    turn = _rotation(n["yaw"], n["pitch"], n["roll"])
    torso = _rotation(n["yaw"] * 0.45, n["pitch"] * 0.1, n["roll"] * 0.2)
    frame = _alignment(p, n, turn)
    zoom = frame[:, :, 0].norm(dim=1)  # camera px per frame px
    pitch = zoom * FRAME / size  # camera px per picture point
    shape, skin, hair = _shape(p, n)
    turns = turn[:, None].repeat(1, shape.shape[1], 1, 1)
    turns[:, [skin - 1, -1]] = torso[:, None]
    depth, inner = _depths(shape, turns, frame, plane)
    soft = (1 / pitch)[:, None, None]
    cover = inner.mul_(soft).add_(0.5)

    def merged(part: slice) -> tuple[Tensor, Tensor]:
        top = depth[:, part].amax(1)
        t = top + torch.log(torch.exp((depth[:, part] - top[:, None]).mul_(1 / MERGE)).sum(1)) * MERGE
        return t, cover[:, part].amax(1).clamp_(0, 1)

    face_t, face_c = merged(slice(0, skin))
    hair_t, hair_c = merged(slice(skin, hair))
    body_t, body_c = depth[:, hair], cover[:, hair].clamp(0, 1)

    camera = frame @ plane[3:]  # (B, 2, P)
    back = turn.transpose(1, 2)

    def head_point(t: Tensor) -> list[Tensor]:
        flat = back[:, :, :2] @ camera
        return [torch.addcmul(flat[:, i], back[:, i, 2:], t) for i in range(3)]

    hx, hy, hz = head_point(hair_t.clamp(min=-200))
    hairy = _hairiness(p, n, hx, hy, hz) * hair_c * torch.sigmoid((hair_t - face_t) * 1.5)
    sharp = 1.6 / pitch.clamp(min=0.5)
    opacity, colours = _paint(p, n, _monomials(*head_point(face_t.clamp(min=-200))), sharp)
    weights, rest = [], torch.ones_like(hairy)
    strands = 0.5 + 0.5 * torch.sin(hx * 0.9 + 2.2 * torch.sin(hy * 0.11 + p["part"][:, None]) + 0.25 * hz)
    body = body_c * torch.sigmoid((body_t - torch.maximum(face_t, hair_t)) * 1.0)
    tint = _hair_colour(p, n)
    cloth = torch.stack([n["cloth_r"], n["cloth_g"], n["cloth_b"]], -1)
    top = [(body, cloth), (hairy * strands, tint * 1.15 + 0.015), (hairy, tint * 0.72)]
    for w, _ in top:
        w = torch.minimum(w, rest) if w is hairy else w * rest
        weights.append(w)
        rest = rest - w
    all_colours = [colour for _, colour in top]
    for w, colour in zip(reversed(opacity), reversed(colours)):
        w = w * rest
        weights.append(w)
        rest = rest - w
        all_colours.append(colour)
    albedo = torch.stack(all_colours, -1) @ torch.stack(weights, 1)  # (B, 3, P)

    alpha = torch.maximum(torch.maximum(face_c, hairy), body_c)
    seen = torch.where(hairy > 0.5, hair_t, face_t)
    seen = torch.where(body > 0.5, body_t, seen).view(count, size, size)
    lit = _light(n, seen, pitch) * albedo.view(count, 3, size, size)
    lit = torch.lerp(_background(n, plane).view(count, 3, size, size), lit, alpha.view(count, 1, size, size))
    return lit.mul_(n["exposure"][:, None, None, None])


def _hairiness(p: Mapping[str, Tensor], n: Mapping[str, Tensor], x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """1 where the hair shell carries hair, 0 over the face."""
    length = (p["hair_length"] + n["hair_length"]).clamp(0, 1)
    recede = (p["recede"] * ((n["age"] - 25) / 40).clamp(0, 1.2) * p["male"]).clamp(min=0)
    line = p["hairline"] - 26 * recede + n["fringe"]
    top = p["eye_y"] - 24 + line * 0 + (-line)
    half = p["temple"] + 5 * recede
    cx = p["part"] * 6
    low = 30.0

    def c(t):
        return t[:, None] if isinstance(t, Tensor) else t

    cy, ry = (top + low) / 2, (low - top) / 2
    inside = ((x - c(cx * 0.5)) / c(half)).square() + ((y - c(cy) - c(0.10 * p["part"]) * x) / c(ry)).square()
    wave = 0.05 * torch.sin(x * 0.45 + c(p["part"]) * 3) * c(p["fringe_wave"])
    face = torch.sigmoid((1 - inside.sqrt() + wave) * 22) * torch.sigmoid((z - 5) * 0.5)
    side_y, side_z = -14 - 3 * p["part"].abs() + 8 * (1 - p["male"]), -13 + 26 * (length * 2.2 - 0.4).clamp(0, 1)
    side = torch.sigmoid((y - c(side_y)) * 0.7) * torch.sigmoid((z - c(side_z)) * 0.7)
    return (1 - face) * (1 - side)


def _light(n: Mapping[str, Tensor], depth: Tensor, pitch: Tensor) -> Tensor:
    """Light (B, 3, S, S) on the surface of this depth: wrapped Lambert, a low gloss and ambient."""
    dy, dx = torch.gradient(depth, dim=(1, 2))
    scale = (1 / pitch)[:, None, None]
    dx, dy = (dx * scale).clamp_(-3, 3), (dy * scale).clamp_(-3, 3)
    az, el = n["light_az"] * math.pi / 180, n["light_el"] * math.pi / 180
    lx, ly, lz = (t[:, None, None] for t in (torch.sin(az) * torch.cos(el), -torch.sin(el), torch.cos(az) * torch.cos(el)))
    nz = torch.rsqrt(dx * dx + dy * dy + 1)
    facing = (lz - dx * lx - dy * ly) * nz
    lambert = (facing * 0.75 + 0.25).clamp_(min=0)
    gloss = (nz * facing).clamp_(0, 1).pow(14) * 0.10
    ambient = n["ambient"][:, None, None]
    level = ambient * (0.55 + 0.45 * nz) + (1.05 - ambient) * lambert + gloss
    warm = n["warm"]
    colour = torch.stack([1 + warm, torch.ones_like(warm), 1 - warm], -1)
    return level[:, None] * colour[:, :, None, None]


def _background(n: Mapping[str, Tensor], plane: Tensor) -> Tensor:
    """(B, 3, P): a muted gradient with one soft blob."""
    uu, uv, vv, u, v, one = (x[None] for x in plane)
    angle = (n["back_angle"] * 2 * math.pi)[:, None]
    t = (torch.cos(angle) * u + torch.sin(angle) * v) / 120 + 0.5
    base = torch.stack([n["back_r"], n["back_g"], n["back_b"]], -1)
    other = (base * n["back_fall"][:, None]).clamp(0, 1)
    blob = torch.exp(-((u - 60 * torch.cos(3 * angle)).square() + (v - 60 * torch.sin(3 * angle)).square()) / 1800)
    w = torch.stack([1 - t, t, blob * 0.5], 1)
    return torch.stack([base, other, torch.stack([n["back_b"], n["back_r"], n["back_g"]], -1) - base * 0.5], -1) @ w


def _finish(picture: Tensor, n: Mapping[str, Tensor], resolution: int) -> Tensor:
    """Blur (sigma in template px) and bring to the resolution in one pair of products, then to bytes."""
    size = picture.shape[-1]
    at = (torch.arange(resolution) + 0.5) * (size / resolution)
    point = torch.arange(size) + 0.5
    sigma = (n["blur"] * size / FRAME)[:, None, None]
    box = 0.5 * size / resolution
    apart = point[None, None] - at[None, :, None]
    wide = (sigma**2 + 0.02).sqrt() * 1.4142
    kernel = torch.erf((apart + box) / wide) - torch.erf((apart - box) / wide)
    kernel = kernel / kernel.sum(-1, keepdim=True)
    small = kernel[:, None] @ picture @ kernel.transpose(1, 2)[:, None]
    return small.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
