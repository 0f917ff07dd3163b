"""DigiFace-style: rendered people who wear sets of accessories (Bae, de La Gorce, Baltrusaitis et al., DigiFace-1M, WACV 2023).

arXiv 2210.02579. DigiFace-1M renders people from 511 head scans, 208 skin textures and artists' hair, clothes and accessories, which are
not public. Here the heads of the embedded world take their place; what is kept is the design of the set. An identity is geometry, skin,
eyes and hair style. What varies within it is a set of accessories, worn in 18 images in a row, and in every image pose, expression, light,
background and camera. Then comes the paper's augmentation. There it belongs to the training of the recognizer, which a comparison holds
fixed; so here each image is augmented once, when it is made. The released images themselves are the preset digiface_1m.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from synthbench.config import Settings
from synthbench.diffusion import process
from synthbench.plugin import Context, Generator, Traits
from synthbench.recognition import augment
from synthbench.seeds import derive, torch_generator
from synthbench.types import FaceBatch, Groups, Slot, Volume
from synthbench.world import attributes, heads, renderer

BATCH = 256  # faces rendered at a time
PART = "generator"  # of the embedded world; another seed than other generators have, so that the people are others too

# ---------------------------------------------------------------------------------------------------------------- config

# The paper's list and probabilities. The strengths are not published (users ask in microsoft/DigiFace1M#6): these are ours.
AUGMENTATION = (
    augment.Flip(p=0.5),
    augment.Warp(p=1.0, scale=(0.9, 1.1), turn=10.0, shift=0.05, aspect_p=0.1, aspect=(0.85, 1.18), corner=0.05),
    augment.ResizedCrop(p=1.0, scale=(0.9, 1.0), ratio=(0.95, 1.05)),
    augment.Blur(p=0.05, sigma=(0.5, 2.0)),
    augment.MotionBlur(p=0.05, length=(3.0, 9.0)),
    augment.ColourJitter(p=0.15, brightness=0.4),
    augment.ColourJitter(p=0.3, contrast=0.4),
    augment.ColourJitter(p=0.1, hue=0.05),
    augment.ColourJitter(p=0.1, saturation=0.4),
    augment.Greyscale(p=0.01),
    augment.LowResolution(p=0.01, side=(0.25, 0.75)),
    augment.Noise(p=0.035, std=(0.01, 0.1)),
    augment.Jpeg(p=0.05, quality=(30, 90)),
)


class Accessories(Settings):
    """Probability of each in a set. Clothes are always worn."""

    makeup: augment.Probability = 0.15
    glasses: augment.Probability = 0.15
    facewear: augment.Probability = Field(0.01, description="a mask")
    headwear: augment.Probability = Field(0.15, description="a knitted cap")
    hand: augment.Probability = Field(0.01, description="before the face")


class Sample(Settings):
    set_size: int = Field(18, ge=1, description="images in a row with the same accessories: 72 make 4 sets, 5 make one, as published")
    accessories: Accessories = Accessories()
    yaw: float = Field(90.0, gt=0, le=90, description="degrees; normal, cut there, where it is a thousandth as likely as 0")
    pitch: float = Field(30.0, gt=0, le=60, description="degrees; the paper gives the limit, here with yaw's rule")
    augmentation: tuple[augment.Augmentation, ...] = Field(AUGMENTATION, description="drawn once for every image; []: none")


class Config(Settings):
    sample: Sample = Sample()


# ------------------------------------------------------------------------------------------------------------- generator


class DigiFace(Generator[Config]):
    """New rendered people with sets of accessories and DigiFace's augmentation: a stand-in, not the released DigiFace-1M."""

    Config = Config
    version = 2  # 2: a person has one age
    traits = Traits(
        paper="DigiFace-1M: 1 Million Digital Face Images for Face Recognition, arXiv 2210.02579; DigiFace-style, with another renderer",
        licence="MIT; the scans and assets of DigiFace-1M are Microsoft's and are not used",
    )
    tiny = {"sample": {"set_size": 2}}

    def known(self, volume: Volume, context: Context) -> Mapping[str, Groups]:
        identity, number = torch.tensor(self.slots(volume, context)).unbind(1)
        return attributes.groups(*dressed(self.config.sample, identity, number, number // self.config.sample.set_size, context.seed))

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        """Columns: accessory_set, the number of the set that is worn."""
        sample = self.config.sample
        for start in range(0, len(slots), BATCH):
            part = slots[start : start + BATCH]
            identity, number = torch.tensor(part).unbind(1)
            outfit = number // sample.set_size
            images = render(sample, identity, number, outfit, context.resolution, context.seed)
            if sample.augmentation:
                images = torch.cat([augmented(image, sample, slot, context.seed) for image, slot in zip(images, part)])
            yield FaceBatch(images, identity, {"accessory_set": outfit})


def augmented(image: Tensor, sample: Sample, slot: Slot, seed: int) -> Tensor:
    """(3, R, R) uint8 -> (1, 3, R, R) uint8, alone, so that it does not depend on its batch."""
    x = augment.augment(image[None], sample.augmentation, torch_generator(seed, "augmentation", *slot))
    return process.to_uint8(x)


# ------------------------------------------------------------------------------------------------------------- rendering

POSE = {"yaw": ("uniform", 0.0, 1.0), "pitch": ("uniform", 0.0, 1.0)}
WARDROBE = {
    **dict.fromkeys(Accessories.model_fields, ("uniform", 0.0, 1.0)),
    "makeup_strength": ("uniform", 0.5, 1.0),
    "hair_light": ("normal", 0.0, 0.08),  # dyed, sun-bleached
    "hat_low": ("uniform", 2.0, 12.0),  # px between brows and cap
    "hat_light": ("uniform", 0.08, 0.85),
    "hat_tint": ("normal", 0.0, 0.12),
    "hat_tint2": ("normal", 0.0, 0.12),
}
# What of the world's nuisance stays the same within a set.
WORN = (
    "rim",
    "rim_dark",
    "lens",
    "hair_length",
    "hair_volume",
    "fringe",
    "beard",
    "mask_light",
    "occlusion_x",
    "cloth",
    "cloth_tint",
    "cloth_tint2",
)


def render(sample: Sample, identity: Tensor, number: Tensor, outfit: Tensor, resolution: int, seed: int) -> Tensor:
    """Faces (B, 3, resolution, resolution) uint8 of the people `identity` in their accessories `outfit`, image `number`; all (B,)."""
    return renderer.render(*dressed(sample, identity, number, outfit, seed), resolution)


def dressed(sample: Sample, identity: Tensor, number: Tensor, outfit: Tensor, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """People and scene of the images of `render`."""
    own = derive(seed, "digiface")
    people = renderer.draw(renderer.PERSON, PART, identity, torch.zeros_like(identity), own, renderer.IDENTITY_SPREAD)
    scene = renderer.nuisance(PART, identity, number, own)
    scene["age"] = renderer.nuisance(PART, identity, torch.zeros_like(identity), derive(own, "age"))["age"]  # shapes head and skin
    worn = renderer.nuisance(PART, identity, outfit, derive(own, "accessories"))
    pose = dict(zip(POSE, renderer.draw(POSE, PART, identity, number, own).unbind(1)))
    wardrobe = dict(zip(WARDROBE, renderer.draw(WARDROBE, PART, identity, outfit, own).unbind(1)))
    has = {name: wardrobe[name] < share for name, share in sample.accessories.model_dump().items()}
    scene |= {name: worn[name] for name in WORN}
    scene |= {name: angle(pose[name], limit) for name, limit in (("yaw", sample.yaw), ("pitch", sample.pitch))}
    scene["glasses"] = (~has["glasses"]).float()  # worn below a share
    scene["makeup"] = has["makeup"] * wardrobe["makeup_strength"]
    hand, mask, none = (torch.tensor(share) for share in (heads.HAND / 2, (heads.LOCK + heads.MASK) / 2, 1.0))
    scene["occlusion"] = torch.where(has["hand"], hand, torch.where(has["facewear"], mask, none))
    scene |= {"hat": has["headwear"].float()} | {name: wardrobe[name] for name in WARDROBE if name.startswith("hat_")}
    people[:, list(renderer.PERSON).index("hair_light")] += wardrobe["hair_light"]
    people[:, list(renderer.PERSON).index("blush")] += 0.3 * scene["makeup"]
    return people, scene


def angle(u: Tensor, limit: float) -> Tensor:
    """Uniform (B,) -> degrees: normal, truncated at +-limit, where its density is 0.001 of that at 0 (DigiFace, for yaw)."""
    deviation = limit / math.sqrt(2 * math.log(1000))
    outside = torch.special.ndtr(torch.tensor(-limit / deviation, dtype=torch.float64))
    return (deviation * torch.special.ndtri(outside + u.double() * (1 - 2 * outside))).float()
