"""The embedded world: people who do not exist, with known identity, pose, age, light and expression. Needs no file and no network.

An identity is a draw from PERSON, an image a further draw from NUISANCE; both depend on nothing but (seed, part, identity, sample).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from synthbench.seeds import derive
from synthbench.types import UserError
from synthbench.world import heads

VERSION = 1  # raise it when the same slot would look different: it enters the key of everything rendered
PARTS = ("train", "judge", "inquiry", "benchmark", "generator")  # disjoint people
IDENTITY_SPREAD = 1.0  # factor on the spread of every normal row of PERSON: larger makes people easier to tell apart
NUISANCE_SPREAD = 1.0  # factor on the spread of every normal row of NUISANCE: larger makes recognition harder

# name: (distribution, mean, standard deviation), cut at 2.5 deviations, or ("uniform", low, high). Lengths in px of the 112 px template.
PERSON: dict[str, tuple[str, float, float]] = {
    "male": ("normal", 0.0, 2.5),  # logit
    "tone": ("uniform", 0.0, 1.0),  # 0 light, 1 dark
    "undertone": ("normal", 0.0, 1.0),
    "hair_light": ("normal", 0.45, 0.28),
    "hair_red": ("normal", 0.0, 0.6),
    "hair_length": ("normal", 0.45, 0.25),
    "hair_volume": ("normal", 6.0, 2.2),
    "hairline": ("normal", 13.0, 4.5),  # px of forehead between brow level and hair
    "temple": ("normal", 34.0, 2.0),
    "part": ("normal", 0.0, 0.8),
    "fringe_wave": ("normal", 0.6, 0.5),
    "recede": ("normal", 0.3, 0.5),
    "grey_age": ("normal", 60.0, 9.0),
    "face_width": ("normal", 1.0, 0.05),
    "face_length": ("normal", 1.0, 0.035),
    "jaw_width": ("normal", 28.0, 2.2),
    "fat": ("normal", 0.0, 1.1),
    "cheek": ("normal", 0.0, 1.5),
    "forehead": ("normal", 0.0, 1.2),
    "chin_length": ("normal", 41.0, 2.2),
    "chin_width": ("normal", 13.0, 2.0),
    "chin_out": ("normal", 3.0, 1.5),
    "brow_ridge": ("normal", 0.0, 1.2),
    "brow_y": ("normal", 9.5, 1.3),
    "brow_thick": ("normal", 1.9, 0.4),
    "brow_width": ("normal", 9.5, 0.9),
    "brow_tilt": ("normal", 0.0, 0.09),
    "brow_arch": ("normal", 1.6, 0.9),
    "brow_dark": ("normal", 0.75, 0.14),
    "eye_gap": ("normal", 17.3, 1.1),
    "eye_y": ("normal", -20.3, 0.8),
    "eye_width": ("normal", 7.2, 0.6),
    "eye_height": ("normal", 3.1, 0.45),
    "eye_tilt": ("normal", -0.05, 0.07),
    "iris": ("normal", 0.45, 0.3),
    "iris_size": ("normal", 3.3, 0.18),
    "lid": ("normal", 0.0, 0.6),
    "nose_y": ("normal", 0.0, 1.5),
    "nose_width": ("normal", 9.0, 1.2),
    "nose_out": ("normal", 12.5, 1.6),
    "nose_tip": ("normal", 5.8, 0.7),
    "nose_turn": ("normal", 0.1, 0.15),
    "nose_bend": ("normal", 0.0, 0.5),
    "bridge": ("normal", 1.0, 1.2),
    "mouth_y": ("normal", 20.5, 1.3),
    "mouth_width": ("normal", 13.8, 1.4),
    "mouth_bow": ("normal", 0.0, 0.5),
    "lip_upper": ("normal", 2.8, 0.6),
    "lip_lower": ("normal", 3.6, 0.7),
    "mouth_tilt": ("normal", 0.0, 0.025),
    "hollow": ("normal", 0.03, 0.08),
    "lip_red": ("normal", 0.0, 1.0),
    "ear_size": ("normal", 12.0, 1.2),
    "ear_out": ("normal", 1.6, 0.7),
    "blush": ("uniform", 0.05, 0.45),
    "wrinkle": ("normal", 0.8, 0.25),
    "freckles": ("normal", -0.25, 0.3),
    "freckle_x": ("uniform", -3.0, 3.0),
    "freckle_y": ("uniform", -3.0, 3.0),
    "beard": ("normal", -0.1, 0.5),
    "goatee": ("normal", -0.2, 0.5),
    "tache": ("normal", -0.1, 0.5),
    "tache_size": ("normal", 2.0, 0.4),
    "beard_low": ("normal", 0.0, 2.5),
    **{f"mole{i}_x": ("normal", 0.0, 16.0) for i in range(3)},
    **{f"mole{i}_y": ("normal", 5.0, 16.0) for i in range(3)},
    **{f"mole{i}_r": ("normal", 0.6, 0.7) for i in range(3)},
}
NUISANCE: dict[str, tuple[str, float, float]] = {
    "yaw": ("normal", 0.0, 24.0),  # degrees
    "pitch": ("normal", 0.0, 8.0),
    "roll": ("normal", 0.0, 6.0),
    "tilt": ("normal", 0.0, 2.5),  # degrees and px that the alignment is off
    "shift_x": ("normal", 0.0, 1.2),
    "shift_y": ("normal", 0.0, 1.2),
    "scale": ("normal", 1.0, 0.03),
    "light_az": ("normal", 0.0, 32.0),
    "light_el": ("normal", 25.0, 18.0),
    "ambient": ("uniform", 0.42, 0.75),
    "warm": ("normal", 0.0, 0.05),
    "exposure": ("normal", 1.0, 0.11),
    "smile": ("normal", 0.25, 0.45),
    "open": ("normal", -0.15, 0.4),
    "teeth": ("uniform", 0.0, 2.0),
    "brow_raise": ("normal", 0.0, 0.5),
    "blink": ("normal", 0.0, 0.2),
    "gaze_x": ("normal", 0.0, 0.4),
    "gaze_y": ("normal", 0.0, 0.25),
    "age": ("normal", 36.0, 13.0),  # years
    "glasses": ("uniform", 0.0, 1.0),  # worn below GLASSES
    "rim": ("uniform", 0.6, 1.6),
    "rim_dark": ("uniform", 0.04, 0.4),
    "lens": ("uniform", 9.5, 12.5),
    "makeup": ("normal", -0.1, 0.4),
    "hair_length": ("normal", 0.0, 0.05),
    "hair_volume": ("normal", 0.0, 0.8),
    "fringe": ("normal", 0.0, 0.8),
    "beard": ("normal", 0.0, 0.12),
    "mask_light": ("uniform", 0.2, 1.0),
    "blur": ("uniform", 0.0, 0.9),  # sigma in px
    "back": ("uniform", 0.15, 0.85),
    "back_tint": ("normal", 0.0, 0.05),
    "back_tint2": ("normal", 0.0, 0.05),
    "back_angle": ("uniform", 0.0, 1.0),
    "back_fall": ("uniform", 0.6, 1.3),
    "cloth": ("uniform", 0.08, 0.85),
    "cloth_tint": ("normal", 0.0, 0.09),
    "cloth_tint2": ("normal", 0.0, 0.09),
    "occlusion": ("uniform", 0.0, 1.0),
    "occlusion_x": ("uniform", -1.0, 1.0),
}
GLASSES = 0.18  # share of images
NEUTRAL = ("pitch", "roll", "tilt", "shift_x", "shift_y", "light_az", "warm", "smile", "open", "brow_raise", "blink", "gaze_x", "gaze_y")
STEADY = ("teeth", "makeup", "hair_length", "hair_volume", "fringe", "beard")
FRONTAL = dict.fromkeys(NEUTRAL + STEADY, 0.0) | {"scale": 1.0, "light_el": 20.0, "ambient": 0.6, "exposure": 1.0, "blur": 0.2}
FRONTAL |= {"glasses": 1.0, "occlusion": 1.0}  # at or above the share: none


def people(part: str, first: int, count: int, seed: int = 0) -> Tensor:
    """Identity parameters (count, len(PERSON)) of the people first..first+count-1 of a part; columns as in PERSON."""
    return people_of(part, torch.arange(first, first + count), seed)


def nuisance(
    part: str, identity: Tensor, sample: Tensor, seed: int = 0, frontal: bool = False, difficulty: float = 1.0
) -> dict[str, Tensor]:
    """Everything that is not identity, (B,) each, for the images `sample` of the people `identity`. `frontal`: clean and neutral."""
    n = dict(zip(NUISANCE, draw(NUISANCE, part, identity, sample, seed, NUISANCE_SPREAD * difficulty).unbind(1)))
    if frontal:
        n |= {name: torch.full_like(n["yaw"], value) for name, value in FRONTAL.items()}
        n["yaw"] = n["yaw"] * 0.1  # degrees; a few, either way
    return n


def render(people: Tensor, nuisance: dict[str, Tensor], resolution: int) -> Tensor:
    """Faces (B, 3, resolution, resolution) uint8 RGB of people (B, len(PERSON)) under nuisance (name -> (B,), as `nuisance` gives it)."""
    p, n = dict(zip(PERSON, people.unbind(1))), dict(nuisance)
    n["open"], n["blink"], n["makeup"] = n["open"].clamp(0, 1), n["blink"].clamp(0, 0.9), n["makeup"].clamp(0, 1)
    n["smile"], n["age"] = n["smile"].clamp(-0.3, 1.3), n["age"].clamp(15, 80)
    n["mask"] = ((n["occlusion"] >= heads.LOCK) & (n["occlusion"] < heads.MASK)).float()
    n["glasses"] = (n["glasses"] < GLASSES).float()
    for thing in ("back", "cloth"):
        n[f"{thing}_r"] = (n[thing] + n[f"{thing}_tint"]).clamp(0.03, 0.97)
        n[f"{thing}_g"] = (n[thing] + n[f"{thing}_tint2"]).clamp(0.03, 0.97)
        n[f"{thing}_b"] = (n[thing] - n[f"{thing}_tint"]).clamp(0.03, 0.97)
    return heads.render(_correlated(p, n), n, resolution)


def _correlated(p: dict[str, Tensor], n: dict[str, Tensor]) -> dict[str, Tensor]:
    """The independent draws made to go together: dark skin with dark hair and eyes; jaw, brows, beard and long hair with `male`."""
    male = torch.sigmoid(p["male"])
    beards = {name: (p[name] + n["beard"]).clamp(0, 0.85) * male for name in ("beard", "goatee", "tache")}
    return (
        p
        | beards
        | {f"mole{i}_r": p[f"mole{i}_r"].clamp(min=0.05) for i in range(3)}
        | {
            "male": male,
            "hair_light": (p["hair_light"] - 0.75 * (p["tone"] - 0.35).clamp(min=-0.15)).clamp(0, 1),
            "iris": p["iris"] - 0.7 * (p["tone"] - 0.3).clamp(min=-0.1),
            "hair_length": (p["hair_length"] + 0.7 * (0.5 - male)).clamp(0, 1),
            "jaw_width": p["jaw_width"] + 2.2 * (male - 0.5),
            "brow_thick": (p["brow_thick"] + 0.7 * (male - 0.5)).clamp(min=0.7),
            "brow_ridge": p["brow_ridge"] + 1.5 * (male - 0.5),
        }
    )


def faces(
    part: str, identity: Tensor, sample: Tensor, resolution: int, seed: int = 0, frontal: bool = False, difficulty: float = 1.0
) -> Tensor:
    """Faces (B, 3, resolution, resolution) uint8 RGB; an image depends on (seed, part, identity, sample) alone, not on its batch.

    `difficulty` is a factor on the spread of pose, light, expression and the like. Raises UserError for an unknown part.
    """
    identity, sample = torch.as_tensor(identity).long(), torch.as_tensor(sample).long()
    return render(people_of(part, identity, seed), nuisance(part, identity, sample, seed, frontal, difficulty), resolution)


def people_of(part: str, identity: Tensor, seed: int) -> Tensor:
    """Identity parameters (B, len(PERSON)) of the people `identity` (B,) of a part."""
    return draw(PERSON, part, identity, torch.zeros_like(identity), seed, IDENTITY_SPREAD)


def draw(table: dict[str, tuple[str, float, float]], part: str, identity: Tensor, sample: Tensor, seed: int, spread: float = 1.0) -> Tensor:
    """(B, len(table)) float32 draws; every number is a hash of (seed, part, the names in the table, identity, sample, column)."""
    if part not in PARTS:
        raise UserError(f"the embedded world has no part {part!r}; its parts are {', '.join(PARTS)}")
    key = derive(seed, "world", part, *table)
    columns = np.arange(1, len(table) + 1, dtype=np.uint64)
    image = _mix(_mix(np.uint64(key) + identity.numpy().astype(np.uint64) * _GOLDEN) + sample.numpy().astype(np.uint64) * _GOLDEN)
    bits = _mix(image[:, None] + columns * _GOLDEN)
    u = torch.from_numpy(((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)
    kinds, first, second = zip(*table.values())
    a, b = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    normal = torch.special.ndtri(u).clamp_(-2.5, 2.5) * (b * spread) + a
    is_normal = torch.tensor([kind == "normal" for kind in kinds])
    return torch.where(is_normal, normal, a + (b - a) * u).float()


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64 finalizer (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
