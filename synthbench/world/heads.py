"""Draws the people of the embedded world: an analytic head made of ellipsoids, painted and lit, aligned as ArcFace wants it.

Nothing is traced step by step. Under parallel projection the depth of an ellipsoid at a pixel is a linear function plus the root of a
quadratic one, and painted features are quadratic forms of the point that was hit, so that a batch of faces is a few small matrix products
and some element-wise work. Head coordinates are template pixels (112 px frame, 1 px = 1.8 mm): x to the right of the picture, y down,
z out of the face, the origin between the ears at the height of the nose tip.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from synthbench.world.paint import Columns, features, hair_colour, layers, monomials, skin_colour, table

FRAME = 112.0  # px, side of the frame in which the template is given
TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))  # InsightFace arcface_src
CHUNK = 32_768  # picture points worked on at once, so that they stay in the cache
SKIN, HAIR, NECK = 18, 4, 17  # ellipsoids of the skin and of the hair; the row of the neck
# px over which each ellipsoid of the skin melts into those before it
MELT = (0, 8, 14, 14, 12, 12, 9, 8, 7, 5, 5, 5, 5, 3, 3, 1, 1, 4)
# how flat each ellipsoid of the shape becomes at its outline, so that none shows in the skin
ROUND = (0.0,) * 4 + (0.12,) * 11 + (0.0,) * 8
HAND, SCARF, LOCK, MASK = 0.03, 0.05, 0.08, 0.11  # shares of images with each occlusion, added up


def render(people: Columns, nuisance: Columns, resolution: int) -> Tensor:
    """Faces (B, 3, resolution, resolution) uint8 RGB of people (name -> (B,)) under nuisance (name -> (B,)).

    With the columns hat (1: worn), hat_low, hat_light, hat_tint and hat_tint2 in `nuisance`, which the world itself has not, a knitted cap.
    Drawn at twice the size up to 48 px, above that at the size itself; edges are smoothed analytically in both. Coefficients are
    computed in double precision and pictures in groups of one size, so that a face does not depend on its company.
    """
    size = resolution * 2 if resolution <= 48 else resolution
    step = max(1, CHUNK // size**2)
    names, scene = _scene({k: v.double() for k, v in people.items()}, {k: v.double() for k, v in nuisance.items()}, size, resolution)
    count, threads = len(scene["zoom"]), torch.get_num_threads()
    out = torch.empty(count, 3, resolution, resolution, dtype=torch.uint8)

    def draw(start: int) -> None:
        rows = torch.arange(start, start + step).clamp(max=count - 1)
        faces = _picture(names, {key: value[rows] for key, value in scene.items()}, size, resolution)
        out[start : start + step] = faces[: count - start]

    # a group per thread: far less waiting than two threads on every small operation, above all on a busy machine
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(draw, range(0, count, step)))
    torch.set_num_threads(threads)
    return out


def _scene(p: Columns, n: Columns, size: int, resolution: int) -> tuple[dict[str, list[str]], dict[str, Tensor]]:
    """Everything that is computed once per face: names of the painted features and float32 coefficients (B, ...)."""
    turn = _rotation(n["yaw"], n["pitch"], n["roll"])
    torso = _rotation(n["yaw"] * 0.45, n["pitch"] * 0.1, n["roll"] * 0.2)
    frame = _alignment(p, n, turn)
    zoom = frame[:, :, 0].norm(dim=1) * FRAME / size  # head px per picture point
    shape = _shape(p, n)
    turns = turn[:, None].repeat(1, shape.shape[1], 1, 1)
    turns[:, [NECK, -1]] = torso[:, None]
    quadratic, linear, margin = _projected(shape, turns, frame)
    names, painted = features(p, n, 1.6 / zoom.clamp(min=0.5))
    tint = hair_colour(p, n)
    cloth = torch.stack([n["cloth_r"], n["cloth_g"], n["cloth_b"]], -1)
    back = turn.transpose(1, 2)
    scene = painted | {
        "quadratic": quadratic,
        "linear": linear,
        "margin": (margin / zoom[:, None])[..., None],
        "round": (torch.tensor(ROUND, dtype=zoom.dtype) * shape[..., 5] ** 2 + 1e-3)[..., None],
        "occluder": _occluder(p, n),
        "flat": back[:, :, :2] @ frame,
        "ray": back[:, :, 2:],
        "zoom": zoom,
        "hairline": _hairline(p, n),
        "tints": torch.stack([cloth, tint * 1.2 + 0.02, tint * 0.75, _cover_colour(p, n)], -1),
        "light": _light(n),
        "backdrop": _backdrop(n),
        "resample": _resample(n["blur"], size, resolution),
    }
    if "hat" in n:
        wool = torch.stack([n["hat_light"] + n["hat_tint"], n["hat_light"] + n["hat_tint2"], n["hat_light"] - n["hat_tint"]], -1)
        scene["hat"] = torch.stack([n["hat"], p["eye_y"] - p["brow_y"] - n["hat_low"]], 1)[..., None]
        scene["wool"] = wool.clamp(0.03, 0.97)[..., None]
    return names, {key: value.float().contiguous() for key, value in scene.items()}


def _shape(p: Columns, n: Columns) -> Tensor:
    """Ellipsoids (B, K, 7): centre, radii, tilt about the x axis in radians; first the skin, then the hair, then the torso."""
    wide, jaw, chin, long = p["face_width"], p["jaw_width"], p["chin_length"], p["face_length"]
    drop = 5 * n["open"]
    fat = p["fat"] + 0.03 * (n["age"] - 35)
    ex, ey, my, mw = p["eye_gap"], p["eye_y"], p["mouth_y"] + 0.4 * drop, p["mouth_width"]
    out, nw, ny, tip = p["nose_out"], p["nose_width"], p["nose_y"], p["nose_tip"]
    slope = torch.atan((out - 1) / (ny - ey))
    lu, ll = p["lip_upper"], p["lip_lower"]
    volume = p["hair_volume"] + n["hair_volume"]
    length = (p["hair_length"] + n["hair_length"]).clamp(0, 1)
    long_hair = (length - 0.3).clamp(min=0)
    lock = torch.where(length > 0.48, 3 + 12 * (length - 0.3), 0.01)
    ear = 37.5 * wide + p["ear_out"]
    side = 37 * wide + 0.4 * volume
    return table(
        [
            (0, -40, -8, 41 * wide, 42, 52 + p["forehead"], 0),
            (0, 0, 3, 37 * wide, 43 * long, 39, 0),
            (0, 17 + drop * 0.5, 8, jaw + fat, 25 * long, 31, 0),
            (0, chin - 11 + drop, 20, p["chin_width"], 11.5, 14 + p["chin_out"], 0),
            (-12, 2, 8, 24 + fat, 22, 32 + p["cheek"], 0),
            (12, 2, 8, 24 + fat, 22, 32 + p["cheek"], 0),
            (0, ey - 12, 12, 31, 16, 31 + p["brow_ridge"], 0),
            (p["nose_bend"] / 2, (ey + ny) / 2 - 2, 28 + 0.5 * out + p["bridge"], 3 + 0.3 * nw, (ny - ey) * 0.9, 12, slope),
            (p["nose_bend"], ny - 0.5, 43 + out - 11, tip, tip, 11, -p["nose_turn"]),
            (-nw * 0.58, ny + 1, 33 + 0.2 * out, nw * 0.46, 5.5, 11.5, 0),
            (nw * 0.58, ny + 1, 33 + 0.2 * out, nw * 0.46, 5.5, 11.5, 0),
            (0, my - 0.5 * lu, 26, mw * 1.05, lu + 6, 16 + 0.35 * lu, 0),
            (0, my + 0.6 * ll + drop * 0.6, 26, mw * 0.9, ll + 4.5, 15.5 + 0.35 * ll, 0),
            (-ex, ey, 26, 9.5, 8, 13, 0),
            (ex, ey, 26, 9.5, 8, 13, 0),
            (-ear, -10, -5, 3.2 + p["ear_out"], p["ear_size"], 8, 0.2),
            (ear, -10, -5, 3.2 + p["ear_out"], p["ear_size"], 8, 0.2),
            (0, 60, -12, 25 + 3 * p["male"] + fat, 60, 24, 0),
            (0, -41 - 0.3 * volume, -9, 41.5 * wide + 0.7 * volume, 42.5 + volume, 53 + p["forehead"] + 0.6 * volume, 0),
            (0, -22 + 42 * long_hair, -26, (38 + 9 * long_hair) * wide + 0.5 * volume, 40 + 80 * long_hair, 24, 0),
            (-side, -20 + 38 * length, 2, lock, 20 + 42 * length, lock * 1.6, 0),
            (side, -20 + 38 * length, 2, lock, 20 + 42 * length, lock * 1.6, 0),
            (0, 104, -20, 78 + 12 * p["male"], 44, 34, 0),
        ],
        wide,
    )


def _rotation(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """(B, 3, 3) from head to camera, angles in degrees."""
    y, p, r = (angle * (math.pi / 180) for angle in (yaw, pitch, roll))
    cy, cp, cr, sy, sp, sr = y.cos(), p.cos(), r.cos(), y.sin(), p.sin(), r.sin()
    rows = [
        (cr * cy - sr * sp * sy, -sr * cp, cr * sy + sr * sp * cy),
        (sr * cy + cr * sp * sy, cr * cp, sr * sy - cr * sp * cy),
        (-cp * sy, sp, cp * cy),
    ]
    return table(rows, yaw)


def _alignment(p: Columns, n: Columns, turn: Tensor) -> Tensor:
    """(B, 2, 3) from the frame (u, v, 1), centred, to the camera plane: the similarity that brings five landmarks to the template."""
    eye, mouth = p["eye_gap"], p["mouth_width"] * (1 + 0.12 * n["smile"])
    points = table(
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
    want = torch.tensor(TEMPLATE, dtype=eye.dtype) - (FRAME - 1) / 2
    a, b = torch.view_as_complex(want - want.mean(0)), torch.view_as_complex((seen - seen.mean(1, keepdim=True)).contiguous())
    factor = (b * a.conj()).sum(1) / (a * a.conj()).sum().real  # least squares, frame to camera
    factor = factor / n["scale"] * torch.polar(torch.ones_like(eye), n["tilt"] * (math.pi / 180))
    centre = want.mean(0)
    shift = seen.mean(1) - torch.view_as_real(factor * torch.complex(centre[0] + n["shift_x"], centre[1] + n["shift_y"]))
    return table([(factor.real, -factor.imag, shift[:, 0]), (factor.imag, factor.real, shift[:, 1])], eye)


def _projected(shape: Tensor, turn: Tensor, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ellipsoids as seen: depth = linear (B, K, 3) . (u, v, 1) + sqrt(quadratic (B, K, 6) . (uu, uv, vv, u, v, 1)).

    The third, (B, K), turns the quadratic into the signed distance to the outline in px, near that outline.
    """
    ct, st = shape[..., 6].cos(), shape[..., 6].sin()
    zero, one = torch.zeros_like(ct), torch.ones_like(ct)
    tilt = torch.stack([one, zero, zero, zero, ct, -st, zero, st, ct], -1).unflatten(-1, (3, 3))
    axes = turn @ tilt / shape[..., None, 3:6]
    q = axes @ axes.transpose(-1, -2)  # (P - C)' q (P - C) = 1
    centre = (turn @ shape[..., :3, None])[..., 0]
    ray = frame[:, None].repeat(1, shape.shape[1], 1, 1)
    ray[..., 2] -= centre[..., :2]
    qzz = q[..., 2, 2]
    lean = (q[..., 2:, :2] @ ray) / qzz[..., None, None]
    form = lean.transpose(-1, -2) @ lean - ray.transpose(-1, -2) @ q[..., :2, :2] @ ray / qzz[..., None, None]
    form[..., 2, 2] += 1 / qzz
    a, b, c = form.unbind(-2)
    quadratic = torch.stack([a[..., 0], 2 * a[..., 1], b[..., 1], 2 * a[..., 2], 2 * b[..., 2], c[..., 2]], -1)
    linear = -lean[..., 0, :]
    linear[..., 2] += centre[..., 2]
    flat = q[..., :2, :2] - q[..., :2, 2:] @ q[..., 2:, :2] / qzz[..., None, None]  # the outline, an ellipse in the camera plane
    radius = (flat[..., 0, 0] * flat[..., 1, 1] - flat[..., 0, 1] ** 2).clamp(min=1e-12) ** -0.25
    return quadratic, linear, qzz * radius / 2


def _hairline(p: Columns, n: Columns) -> Tensor:
    """(B, 9, 1): the opening for the face (middle, half width, middle height, half height, skew), its ragged edge, and the side limits."""
    length = (p["hair_length"] + n["hair_length"]).clamp(0, 1)
    recede = (p["recede"] * ((n["age"] - 25) / 40).clamp(0, 1.2) * p["male"]).clamp(min=0)
    top = p["eye_y"] - 24 - p["hairline"] - n["fringe"] - 26 * recede
    low = 30.0
    side_y = -14 - 3 * p["part"].abs() + 8 * (1 - p["male"])
    side_z = -13 + 40 * (length * 4 - 1.4).clamp(0, 1)
    columns = [3 * p["part"], p["temple"] + 5 * recede, (top + low) / 2, (low - top) / 2, 0.2 * p["part"], 3 * p["part"]]
    return torch.stack([*columns, 0.03 * p["fringe_wave"], side_y, side_z], 1)[..., None]


def _occluder(p: Columns, n: Columns) -> Tensor:
    """(B, 5, 6): five ellipses in the frame, 1 - form as (uu, uv, vv, u, v, 1): a hand, a scarf, a lock of hair, or nothing."""
    kind, at, turn = n["occlusion"], n["occlusion_x"], n["occlusion_x"] * 0.6
    zero = torch.zeros_like(at)
    hand, scarf = kind < HAND, (kind >= HAND) & (kind < SCARF)

    def pick(hand_value, scarf_value, lock_value) -> Tensor:
        return torch.where(hand, hand_value + zero, torch.where(scarf, scarf_value + zero, lock_value + zero))

    rows = []
    for i in range(5):
        finger = float(i > 0)
        cu = pick(24 * at + finger * ((i - 2.5) * 8.5 - 20 * turn), 18.0 * (i - 2) + 6 * at, 30 * at + 2.0 * (i - 2))
        cv = pick(44 - finger * (24 - abs(i - 2.3) * 2.0), 55.0 - 1.5 * abs(i - 2) + 6 * at, -18.0)
        ru, rv = pick(18 - finger * 13.3, 16.0, 2.8), pick(16 + finger * 2, 22.0, 34.0 + 2 * (i % 3))
        tilt = pick(-turn, 0.0, -0.45 * at - 0.02 * (i - 2))
        c, s = tilt.cos(), tilt.sin()
        a, b, d = c * c / ru**2 + s * s / rv**2, 2 * c * s * (1 / ru**2 - 1 / rv**2), s * s / ru**2 + c * c / rv**2
        one = torch.where(kind < LOCK, 1 - a * cu**2 - b * cu * cv - d * cv**2, zero - 99)
        off = (kind < LOCK).to(at)
        rows.append((-a * off, -b * off, -d * off, (2 * a * cu + b * cv) * off, (2 * d * cv + b * cu) * off, one))
    return table(rows, at)


def _cover_colour(p: Columns, n: Columns) -> Tensor:
    cloth = torch.stack([n["cloth_b"], n["cloth_g"], n["cloth_r"]], -1) * 0.8
    kind = n["occlusion"][:, None]
    return torch.where(kind < HAND, skin_colour(p) * 0.92, torch.where(kind < SCARF, cloth, hair_colour(p, n) * 0.8))


def _light(n: Columns) -> Tensor:
    """(B, 6, 1): direction to the light, share of ambient light, warmth, exposure."""
    az, el = n["light_az"] * (math.pi / 180), n["light_el"] * (math.pi / 180)
    return torch.stack([az.sin() * el.cos(), -el.sin(), az.cos() * el.cos(), n["ambient"], n["warm"], n["exposure"]], 1)[..., None]


def _backdrop(n: Columns) -> Tensor:
    """(B, 13, 1): slope of the gradient, place of a soft blob, then its two colours and what the blob adds."""
    angle = n["back_angle"] * (2 * math.pi)
    base = torch.stack([n["back_r"], n["back_g"], n["back_b"]], -1)
    other = (base * n["back_fall"][:, None]).clamp(0, 1)
    blob = 0.5 * (base.flip(-1) - base * 0.6)
    place = torch.stack([angle.cos() / 120, angle.sin() / 120, 60 * (3 * angle).cos(), 60 * (3 * angle).sin()], -1)
    return torch.cat([place, base, other, blob], -1)[..., None]


def _resample(blur: Tensor, size: int, resolution: int) -> Tensor:
    """(B, resolution, size): Gaussian blur (sigma in template px) and area averaging along one side."""
    at = (torch.arange(resolution, dtype=blur.dtype) + 0.5) * (size / resolution)
    apart = (torch.arange(size, dtype=blur.dtype) + 0.5) - at[:, None]
    wide = (((blur * size / FRAME) ** 2 + 0.02) * 2).sqrt()[:, None, None]
    half = 0.5 * size / resolution
    kernel = torch.erf((apart + half) / wide) - torch.erf((apart - half) / wide)
    return kernel / kernel.sum(-1, keepdim=True)


def _picture(names: dict[str, list[str]], scene: dict[str, Tensor], size: int, resolution: int) -> Tensor:
    """(B, 3, resolution, resolution) uint8."""
    count = len(scene["zoom"])
    grid = (torch.arange(size) + 0.5) * (FRAME / size) - FRAME / 2
    v, u = (g.flatten() for g in torch.meshgrid(grid, grid, indexing="ij"))
    plane = torch.stack([u * u, u * v, v * v, u, v, torch.ones_like(u)]).expand(count, -1, -1)  # (B, 6, P)
    disc = torch.bmm(scene["quadratic"], plane)
    root = disc.abs().add_(scene["round"]).rsqrt_().mul_(disc)  # falls on outside the outline
    depth = torch.bmm(scene["linear"], plane[:, 3:]).add_(root)
    cover = disc.mul_(scene["margin"]).add_(0.5)
    face_t = _melted(depth[:, :SKIN])
    hair_t = depth[:, SKIN : SKIN + HAIR].amax(1)
    body_t = depth[:, -1]
    face_c = cover[:, :SKIN].amax(1).clamp_(0, 1)
    hair_c = cover[:, SKIN : SKIN + HAIR].amax(1).clamp_(0, 1)
    body = cover[:, -1].clamp_(0, 1) * torch.sigmoid_(body_t - torch.maximum(face_t, hair_t))

    flat = torch.bmm(scene["flat"], plane[:, 3:])

    def point(t: Tensor) -> list[Tensor]:
        return [torch.addcmul(flat[:, i], scene["ray"][:, i], t) for i in range(3)]

    hx, hy, hz = point(hair_t)
    hair = _hairiness(scene["hairline"], hx, hy, hz) * hair_c * torch.sigmoid_((hair_t - face_t).mul_(1.5))
    around = torch.atan2(hx - scene["hairline"][:, 0], hz + 25)
    wobble = torch.sin(hy * 0.13 + scene["hairline"][:, 0])
    strand = (torch.sin(around * 17 + wobble) + torch.sin(around * 41 - 2 * wobble)).mul_(0.2).add_(0.5)
    opacity = layers(names, scene, monomials(*point(face_t)))
    hat = _hat(scene["hat"], hy, hz) * hair_c if "hat" in scene else None
    if hat is not None:
        hair = hair * (1 - hat)

    relief = torch.bmm(scene["occluder"], plane).amax(1)
    held = torch.sigmoid(relief * 9)
    free = (1 - held) * (1 - body)
    weights, rest = [body * (1 - held), hair * strand * free, hair * (1 - strand) * free, held], (1 - hair) * free
    colours = torch.cat([scene["tints"], scene["paints"].flip(-1)], -1)
    if hat is not None:
        rest, hair = rest - hat * free, hair + hat
    for w in reversed(opacity):
        weights.append(w * rest)
        rest = rest - weights[-1]
    if hat is not None:
        rib = torch.sin(around * 60).mul_(0.08).add_(0.92)
        weights.append(hat * rib * free)
        colours = torch.cat([colours, scene["wool"]], -1)
    albedo = torch.bmm(colours, torch.stack(weights, 1))
    slope = torch.stack([torch.where(body > 0.5, body_t, face_t), hair_t], 1).view(count, 2, size, size)
    flatly = torch.lerp(_shading(scene, slope, hair), relief.clamp(0, 1).mul_(0.45).add_(0.6)[:, None], held[:, None])
    lit = albedo * flatly
    alpha = torch.maximum(torch.maximum(face_c, hair), torch.maximum(body, held))
    lit = torch.lerp(_background(scene["backdrop"], u, v), lit, alpha[:, None]).mul_(scene["light"][:, 5:])
    small = scene["resample"][:, None] @ lit.view(count, 3, size, size) @ scene["resample"].transpose(1, 2)[:, None]
    return small.mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def _melted(depth: Tensor) -> Tensor:
    """The nearest of (B, K, P) depths, each joined to those before it by a quadratic fillet MELT wide."""
    top = depth[:, 0]
    for i in range(1, depth.shape[1]):
        other, k = depth[:, i], float(MELT[i])
        fillet = (top - other).abs_().neg_().add_(k).clamp_(min=0)
        top = torch.maximum(top, other).addcmul_(fillet, fillet, value=0.25 / k)
    return top


def _hairiness(line: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """1 where the hair shell carries hair, 0 over the face and, with short hair, below the temples."""
    cx, half, cy, tall, skew, phase, wave, side_y, side_z = line.unbind(1)
    inside = ((x - cx) / half).square_().square_() + ((y - cy - skew * x) / tall).square_().square_()
    ragged = torch.sin(x * 0.37 + phase).add_(torch.sin(x * 0.9 - phase)).mul_(wave)
    face = torch.sigmoid_((1 - inside.sqrt_().sqrt_() + ragged).mul_(30)) * torch.sigmoid_((z - 5).mul_(0.5))
    side = torch.sigmoid_((y - side_y).mul_(0.7)) * torch.sigmoid_((z - side_z).mul_(0.7))
    return (1 - face) * (1 - side)


def _hat(line: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """1 where the hair shell is under a cap that is worn: above a line over the brows, which sinks to the back; `line` is (B, 2, 1)."""
    worn, low = line.unbind(1)
    return worn * torch.sigmoid_((low + (40 - z) * 0.22 - y).mul_(1.2))


def _shading(scene: dict[str, Tensor], depth: Tensor, hair: Tensor) -> Tensor:
    """Light (B, 3, P) on two surfaces (B, 2, S, S) mixed by `hair`: wrapped Lambert, ambient and a low gloss."""
    scale = (1 / scene["zoom"])[:, None]
    dy, dx = (torch.lerp(d[:, 0].flatten(1), d[:, 1].flatten(1), hair).mul_(scale).clamp_(-3, 3) for d in torch.gradient(depth, dim=(2, 3)))
    lx, ly, lz, ambient, warm, _ = scene["light"].unbind(1)
    nz = torch.rsqrt(1 + dx * dx + dy * dy)
    facing = (lz - dx * lx - dy * ly) * nz
    gloss = (nz * facing).clamp_(0, 1).pow_(14) * 0.10
    level = ambient * (0.55 + 0.45 * nz) + (1.05 - ambient) * (facing * 0.75 + 0.25).clamp_(min=0) + gloss
    return torch.stack([level * (1 + warm), level, level * (1 - warm)], 1)


def _background(backdrop: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """(B, 3, P): a muted gradient with one soft blob."""
    gu, gv, bu, bv = backdrop[:, :4].unbind(1)
    t = gu * u + gv * v + 0.5
    blob = torch.exp_(((u - bu).square_() + (v - bv).square_()).mul_(-1 / 1800))
    colours = backdrop[:, 4:, 0].unflatten(1, (3, 3)).transpose(1, 2)
    return torch.bmm(colours, torch.stack([1 - t, t, blob], 1))
