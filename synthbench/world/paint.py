"""What is painted on the heads of the embedded world: eyes, brows, lips, beard, moles, wrinkles, glasses, a mask.

Every feature is a function of one quadratic form of the point (x, y, z) of the head that is seen: exp(-form) is a spot, exp(-form^2) a
line, sigmoid(form) an area with a soft edge. `features` gives the coefficients of a batch of people, `layers` the opacities of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

MONOMIALS = ("1", "x", "a", "y", "z", "xx", "ay", "xy", "yy", "zz", "s")  # a = |x| paints both sides at once, s is the side
Form = dict[str, "float | Tensor"]
Columns = Mapping[str, Tensor]


def monomials(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """(B, P) each -> (B, len(MONOMIALS), P)."""
    a = x.abs()
    return torch.stack([torch.ones_like(x), x, a, y, z, x * x, a * y, x * y, y * y, z * z, torch.sign(x)], 1)


def table(rows: list[tuple], like: Tensor) -> Tensor:
    """(B, rows, columns) from rows of numbers and (B,) columns."""
    return torch.stack([torch.stack([torch.as_tensor(x, dtype=like.dtype).expand_as(like) for x in row], -1) for row in rows], 1)


def _scaled(form: Form, k: float | Tensor) -> Form:
    return {name: value * k for name, value in form.items()}


def _spot(cx, cy, rx, ry, tilt=0.0, side: str = "a", strength=1.0) -> Form:
    """exp(-form) is a spot of this strength and 1/e radii rx, ry at (cx, cy), on both sides (side "a") or one ("x")."""
    c, s = (torch.cos(tilt), torch.sin(tilt)) if isinstance(tilt, Tensor) else (math.cos(tilt), math.sin(tilt))
    xx, yy, xy = c * c / rx**2 + s * s / ry**2, s * s / rx**2 + c * c / ry**2, 2 * c * s * (1 / rx**2 - 1 / ry**2)
    form = {"xx": xx, "yy": yy, side + "y": xy, side: -2 * xx * cx - xy * cy, "y": -2 * yy * cy - xy * cx}
    form["1"] = xx * cx**2 + yy * cy**2 + xy * cx * cy - torch.log(torch.as_tensor(strength, dtype=torch.float64).clamp(min=1e-4))
    return form


def _disc(form: Form, k) -> Form:
    """sigmoid(form) is the area inside the spot's radii; k: edge slope over the relative radius squared."""
    return _scaled(form, -k) | {"1": (1 - form["1"]) * k}


def _iris(ex, gx, cy, r) -> Form:
    """Squared distance over r^2 from a point that looks gx to the right of both eye centres (+-ex, cy)."""
    k = 1 / r**2
    return {"xx": k, "a": -2 * ex * k, "x": -2 * gx * k, "s": 2 * ex * gx * k, "y": -2 * cy * k, "yy": k, "1": (ex**2 + gx**2 + cy**2) * k}


def _arc(cx, cy, height, width, tilt=0.0, side: str = "a", k=1.0) -> Form:
    """k px below the parabola that stands `height` above (cx, cy), meets that height at cx +- width and sinks by `tilt` outward."""
    bow = height / width**2
    return _scaled({"1": height - cy - bow * cx**2 + tilt * cx, side: 2 * bow * cx - tilt, "xx": -bow, "y": 1.0}, k)


def features(p: Columns, n: Columns, sharp: Tensor) -> tuple[dict[str, list[str]], dict[str, Tensor]]:
    """Names of the features, and coefficients: "waves", "spots", "bands" and "areas" (B, F, 11), "parts" (B, F, 1), "paints" (B, 3, L).

    `sharp` (B,) is the slope of a soft edge per px. The first ten spots are shade, the next three moles.
    """
    zero = torch.zeros_like(sharp)
    old = ((n["age"] - 30) / 40).clamp(0, 1.3) * p["wrinkle"]
    grin = n["smile"].clamp(0, 1)
    ex, ey, ew, lean = p["eye_gap"], p["eye_y"], p["eye_width"], p["eye_tilt"]
    up = p["eye_height"] * (1.05 - n["blink"]) * (1 - 0.25 * grin) - 0.4 * old
    by, bt = ey - p["brow_y"] - 2.2 * n["brow_raise"], p["brow_tilt"] - 0.08 * n["brow_raise"]
    gx, gy, ir = 2.0 * n["gaze_x"], ey + 1.0 * n["gaze_y"] - 0.3, p["iris_size"]
    mw, my = p["mouth_width"] * (1 + 0.14 * n["smile"]), p["mouth_y"]
    lu, ll = p["lip_upper"] * (1 - 0.25 * old), p["lip_lower"] * (1 - 0.2 * old)
    bow, gap = 3.2 * n["smile"] + p["mouth_bow"], 8.5 * n["open"] + 2.0 * grin * n["teeth"]
    mid = my + 0.35 * bow  # height of the corners is mid - bow
    nw, ny = p["nose_width"], p["nose_y"]

    def mouth(rise, width=1.0, **kw) -> Form:
        """Below the line through the corners that stands `rise` above the middle of the closed mouth."""
        return _arc(0, mid - bow, rise - bow, mw * width, side="x", **kw) | {"x": -p["mouth_tilt"] * kw.get("k", 1.0)}

    spots: dict[str, Form] = {
        "socket": _spot(ex - 0.5, ey - 3.5, 10.0, 5.5, strength=0.30),
        "inner": _spot(ex * 0.45, ey + 0.5, 3.2, 6.0, strength=0.30),
        "bag": _spot(ex, ey + 6.5, 7.0, 2.0, 0.12, strength=0.08 + 0.3 * old),
        "under_nose": _spot(0, ny + 6.0, nw * 0.7, 2.4, strength=0.45),
        "side_nose": _spot(nw * 1.12, ny + 0.5, 1.5, 4.0, strength=0.28),
        "groove": _spot(0, my - lu - 3.5, 1.3, 2.5, strength=0.14),
        "under_lip": _spot(0, my + ll + 3.4 + gap, mw * 0.5, 1.8, strength=0.30),
        "neck": _spot(0, p["chin_length"] + 13, 60.0, 11.0, strength=0.75),
        "corner": _spot(mw + 0.8, mid - bow, 1.8, 2.0, strength=0.28),
        "hollow": _spot(27.0, 14.0, 6.0, 11.0, 0.3, strength=0.05 + p["hollow"].clamp(min=0)),
        **{f"mole{i}": _spot(p[f"mole{i}_x"], p[f"mole{i}_y"], p[f"mole{i}_r"], p[f"mole{i}_r"], side="x") for i in range(3)},
        "blush": _spot(19.0, 2.0, 10.0, 8.0, strength=p["blush"]),
        "freckled": _spot(13.0, 0.0, 16.0, 11.0, strength=1.6 * p["freckles"].clamp(0, 0.5)),
        "goatee": _spot(0, p["chin_length"] - 4, p["chin_width"] * 0.95, 11.0, side="x", strength=p["goatee"]),
        "nostril": _spot(nw * 0.45, ny + 3.8, nw * 0.24, 1.2, 0.15, strength=0.8),
        "lid": _spot(ex, ey - 1.0, 9.0, 6.5),
        "glint": _iris(ex, gx + ir * 0.35 * torch.sin(n["light_az"] * (math.pi / 180)), gy - 0.35 * ir, 1.1 + zero),
    }
    neck = spots["neck"]
    spots["neck"] = neck | {"zz": 1 / 26**2, "z": -2 * 6 / 26**2, "1": neck["1"] + (6 / 26) ** 2}
    fade = 0.5 + 0.3 * old
    bands: dict[str, Form] = {
        "fold": {"1": (-(nw + 1.5) + 0.6 * (ny + 2)) * fade, "a": fade, "y": -0.6 * fade},  # from the nose wing to the mouth corner
        "brow_line1": _arc(0, by - 8, 1.5, 24.0, k=0.9),
        "brow_line2": _arc(0, by - 14, 1.8, 24.0, k=0.9),
        "lash": _arc(ex, ey, up, ew, lean, k=0.95),
        "crease": _arc(ex, ey - 2.4 - p["lid"], up * 0.9, ew * 1.1, lean),
        "brow": _arc(ex + 0.5, by, p["brow_arch"], p["brow_width"], bt, k=1 / p["brow_thick"]),
        "tache": _arc(0, my - lu - 2.6, 1.8, mw, k=1 / p["tache_size"]),
        "line": mouth(0 * bow, k=0.9),
        "arm": {"1": -(ey - 1.5) * 0.75, "y": 0.75},
    }
    k = sharp
    lens = _spot(ex * 1.05, ey + 1.5, n["lens"] * 1.1, n["lens"] * 0.9)
    flip = -k
    areas: dict[str, Form] = {
        "eye_up": _arc(ex, ey, up, ew, lean, k=k),
        "eye_low": _arc(ex, ey, -0.55 * p["eye_height"], ew, lean, k=flip),
        "iris": _disc(_iris(ex, gx, gy, ir), 0.5 * ir * k),
        "pupil": _disc(_iris(ex, gx, gy, 0.45 * ir), 0.25 * ir * k),
        "brow_in": _disc(_spot(ex + 0.5, by, p["brow_width"], 40.0), 4.0),
        "lip_up": _arc(mw * 0.3, mid - bow, lu * 1.2 - bow, mw * 0.72, k=k) | {"x": -p["mouth_tilt"] * k},
        "lip_low": mouth(-1.2 * ll - gap, k=flip),
        "in_up": mouth(0.15 * gap, 0.9, k=k),
        "in_low": mouth(-gap, 0.9, k=flip),
        "teeth": mouth(-0.75 * gap.clamp(max=3.2), 0.88, k=flip),
        "bare_cheek": _disc(_spot(0, p["beard_low"] - 6, 27.0, 25.0, side="x"), zero - 9.0),
        "bare_mouth": _disc(_spot(0, my + 1.5, mw * 1.25, 6.5, side="x"), zero - 5.0),
        "beard_top": {"y": 0.4, "1": 1.0},
        "beard_end": {"y": -0.5, "1": 0.5 * (p["chin_length"] + 7)},
        "tache_in": _disc(_spot(0, my - lu - 2, mw * 1.1, 9.0, side="x"), 4.0),
        "fold_in": _disc(_spot(p["mouth_width"], my - 9, 9.0, 9.0), 3.0),
        "rim_out": _disc(lens, zero - 0.5 * n["lens"] * k),
        "rim_in": _disc(_scaled(lens, 1 / (1 - 1.7 * n["rim"] / n["lens"]) ** 2), zero - 0.5 * n["lens"] * k),
        "arm_in": {"z": 0.8, "1": 0.8 * 4},
        "mask": _arc(0, ny + 4, 7.0, 26.0, k=k),
        "mask_low": {"y": flip, "1": k * (p["chin_length"] + 5)},
    }
    waves: dict[str, Form] = {
        "freckle1": {"1": p["freckle_x"], "x": 1.3, "y": 0.7},
        "freckle2": {"1": p["freckle_y"], "x": -0.6, "y": 1.4},
    }
    kinds = {"waves": waves, "spots": spots, "bands": bands, "areas": areas}
    names = {kind: list(rows) for kind, rows in kinds.items()}
    forms = {kind: table([tuple(row.get(m, 0.0) for m in MONOMIALS) for row in rows.values()], sharp) for kind, rows in kinds.items()}
    part = {
        "fold": (0.06 + 0.3 * old + 0.22 * grin).clamp(max=0.6),
        "lines": 0.3 * (old - 0.15).clamp(min=0),
        "inside": (gap / 1.5).clamp(0, 1),
        "lash": 0.9 - 0.25 * p["male"],
        "brow": p["brow_dark"],
        "beard": p["beard"],
        "tache": p["tache"],
        "glasses": n["glasses"],
        "mask": n["mask"],
    }
    names["parts"] = list(part)
    forms["parts"] = torch.stack(list(part.values()), 1)[..., None]
    return names, forms | {"paints": _paints(p, n)}


def _paints(p: Columns, n: Columns) -> Tensor:
    """(B, 3, layers), the colours of `layers` in the same order."""
    skin, hair = skin_colour(p), hair_colour(p, n)
    red = p["lip_red"]
    lip = skin * torch.stack([0.93 + 0 * red, 0.66 - 0.06 * red, 0.68 - 0.04 * red], -1) + 0.02
    lip = torch.lerp(lip, skin.new_tensor([0.66, 0.14, 0.19]).expand_as(skin), (n["makeup"] * (1 - p["male"]))[:, None])
    white = skin.new_tensor([0.86, 0.84, 0.82]).expand_as(skin)
    return torch.stack(
        [
            skin,
            skin * skin.new_tensor([1.0, 0.70, 0.68]),  # blush
            skin * skin.new_tensor([0.50, 0.38, 0.35]),  # shade
            skin * skin.new_tensor([0.40, 0.28, 0.24]),  # moles
            hair * 0.85 + 0.02,  # beard
            lip,
            lip * 0.30,  # line between the lips
            lip * 0.22,  # inside of the mouth
            white,  # teeth
            skin * 0.22,  # nostrils
            skin * 0.42,  # crease of the lid
            hair * 0.60 + 0.01,  # brows
            white,
            _ramp(p["iris"], ((0.14, 0.08, 0.05), (0.25, 0.15, 0.08), (0.36, 0.26, 0.12), (0.34, 0.42, 0.28), (0.32, 0.46, 0.58))),
            white * 0.06,  # pupil
            white * 1.15,  # glint
            hair * 0.25,  # lashes
            torch.stack([n["rim_dark"], n["rim_dark"] * 0.9, n["rim_dark"] * 0.85], -1),
            torch.stack([n["cloth_b"], n["cloth_g"], n["cloth_r"]], -1) * 0.3 + 0.62 * n["mask_light"][:, None],
        ],
        -1,
    )


def layers(names: dict[str, list[str]], scene: Mapping[str, Tensor], points: Tensor) -> list[Tensor]:
    """Opacities (B, P) of the layers, from the skin up, at head points given as monomials (B, 11, P)."""
    gauss = torch.exp_(torch.bmm(scene["spots"], points).clamp_(max=20).neg_())
    spot = dict(zip(names["spots"], gauss.unbind(1)))
    band = dict(zip(names["bands"], torch.exp_(torch.bmm(scene["bands"], points).square_().clamp_(max=20).neg_()).unbind(1)))
    area = dict(zip(names["areas"], torch.sigmoid_(torch.bmm(scene["areas"], points).clamp_(-16, 16)).unbind(1)))
    part = dict(zip(names["parts"], scene["parts"].unbind(1)))
    wave = torch.bmm(scene["waves"], points)
    freckles = (wave + torch.sin(wave.flip(1) * 0.41).mul_(2.2)).sin_().prod(1).sub_(0.3).clamp_(min=0)
    shade = gauss[:, :10].sum(1)
    shade += part["fold"] * band["fold"] * area["fold_in"]
    shade += part["lines"] * (band["brow_line1"] + band["brow_line2"])
    beard = torch.maximum(area["bare_cheek"] * area["beard_top"] * part["beard"], spot["goatee"]) * area["bare_mouth"] * area["beard_end"]
    beard = torch.maximum(beard, band["tache"] * area["tache_in"] * part["tache"])
    lips = area["lip_up"] * area["lip_low"]
    inside = area["in_up"] * area["in_low"] * part["inside"]
    eye = area["eye_up"] * area["eye_low"]
    rim = torch.maximum(area["rim_in"] - area["rim_out"], band["arm"] * area["rim_out"]) * area["arm_in"] * part["glasses"]
    return [
        torch.ones_like(eye),
        spot["blush"],
        shade.clamp_(max=0.85),
        gauss[:, 10:13].sum(1).addcmul_(freckles, spot["freckled"]).clamp_(max=0.85),
        beard,
        lips * 0.85,
        band["line"] * lips * 0.7,
        inside,
        inside * area["teeth"] * 0.92,
        spot["nostril"],
        band["crease"] * spot["lid"] * 0.4,
        band["brow"] * area["brow_in"] * part["brow"],
        eye,
        eye * area["iris"],
        eye * area["pupil"],
        eye * spot["glint"] * 0.95,
        band["lash"] * spot["lid"] * part["lash"],
        rim,
        area["mask"] * area["mask_low"] * part["mask"],
    ]


def _ramp(t: Tensor, stops: tuple[tuple[float, float, float], ...]) -> Tensor:
    """(B, 3) colours at t in 0..1 on evenly spaced stops."""
    colours = torch.tensor(stops, dtype=t.dtype)
    at = t.clamp(0, 1) * (len(stops) - 1)
    low = at.floor().long().clamp(max=len(stops) - 2)
    return torch.lerp(colours[low], colours[low + 1], (at - low)[:, None])


def skin_colour(p: Columns) -> Tensor:
    tone = _ramp(p["tone"], ((0.95, 0.80, 0.72), (0.90, 0.71, 0.59), (0.80, 0.59, 0.45), (0.62, 0.42, 0.30), (0.42, 0.27, 0.20)))
    return (tone + p["undertone"][:, None] * tone.new_tensor([0.018, -0.004, -0.022])).clamp(0, 1)


def hair_colour(p: Columns, n: Columns) -> Tensor:
    colour = _ramp(p["hair_light"], ((0.07, 0.055, 0.05), (0.17, 0.11, 0.08), (0.33, 0.21, 0.13), (0.57, 0.39, 0.23), (0.83, 0.66, 0.43)))
    colour = colour + (p["hair_red"] * p["hair_light"].clamp(0.15, 1))[:, None] * colour.new_tensor([0.12, 0.0, -0.05])
    grey = torch.sigmoid((n["age"] - p["grey_age"]) / 5)[:, None] * 0.85
    return torch.lerp(colour.clamp(0.02, 1), colour.new_tensor([0.72, 0.71, 0.70]).expand_as(colour), grey)
