"""The published sets and weights that synthbench knows by name: what they are, under which licence, and where to ask. None is shipped."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """Something that has a name in protocols."""

    name: str
    kind: str  # faces, pairs, templates, weights
    title: str
    licence: str
    url: str  # where to ask for it
    images: int = 0  # of a set of faces, as published
    identities: int = 0
    pairs: int = 0
    colour: str = ""  # of weights: the order of the channels they were trained with
    sha256: str = ""  # how it begins
    files: tuple[str, ...] = ()  # of weights that are a folder: what it must hold; "a|b": one of the two


_RESEARCH = "non-commercial research, no redistribution"
_INSIGHTFACE = "https://github.com/deepinsight/insightface/tree/master/recognition/_datasets_"
_RFW = "http://www.whdeng.cn/RFW/testing.html"
_RFW_GROUPS = ("African", "Asian", "Caucasian", "Indian")
_NIST = "NIST, research, on request, no redistribution"
_IJB = "https://www.nist.gov/programs-projects/face-challenges"
_ADAFACE = "https://github.com/mk-minchul/AdaFace"


@dataclass(frozen=True)
class Entry:
    """A registered source, as it was when it was looked into."""

    name: str
    kind: str
    title: str
    path: Path
    digest: str  # SHA-256 of the file, or over the files of a folder; of list and images together for a pair list
    stamp: str  # quick sign of change
    size: int  # bytes
    added: str  # UTC
    images: int = 0  # of a pair set: distinct images
    identities: int = 0
    pairs: int = 0
    note: str = ""
    full_stamp: str = ""  # sign of change of every file; empty where an earlier version registered it
    options: dict[str, Any] = field(default_factory=dict)  # weights: colour; pair lists: pairs, the list's path; faces: `Source.reading`
    read: str = ""  # of faces: what was understood, in words; empty where an earlier version registered it


WORLD = "world-"  # begins the names of benchmarks of the embedded world, which nobody registers
WORLD_GROUPS = {  # groups of people of the embedded world, by attribute
    "skin": ("light", "medium", "brown", "dark"),
    "sex": ("feminine", "masculine"),
    "age": ("younger", "older"),
    "glasses": ("worn", "none"),
}
CATALOGUE = {
    source.name: source
    for source in (
        Source("casia-webface", "faces", "CASIA-WebFace", _RESEARCH, _INSIGHTFACE, images=490_623, identities=10_572),
        Source("webface4m-1shot", "faces", "WebFace4M, one image each", _RESEARCH + ", signed", "https://www.face-benchmark.org"),
        Source("ms1mv2", "faces", "MS1MV2", _RESEARCH, _INSIGHTFACE, images=5_822_653, identities=85_742),
        Source("celeba", "faces", "CelebA, aligned", _RESEARCH, "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"),
        Source(
            "digiface-1m",
            "faces",
            "DigiFace-1M",
            "Microsoft research licence, non-commercial, no redistribution",
            "https://github.com/microsoft/DigiFace1M",
        ),
        Source("lfw", "pairs", "LFW", "research", _INSIGHTFACE, pairs=6_000),
        Source("cfp-fp", "pairs", "CFP-FP", _RESEARCH, _INSIGHTFACE, pairs=7_000),
        Source("agedb-30", "pairs", "AgeDB-30", _RESEARCH, _INSIGHTFACE, pairs=6_000),
        Source("calfw", "pairs", "CALFW", "research", _INSIGHTFACE, pairs=6_000),
        Source("cplfw", "pairs", "CPLFW", "research", _INSIGHTFACE, pairs=6_000),
        *(Source(f"rfw-{group.lower()}", "pairs", f"RFW, {group}", _RESEARCH + ", on request", _RFW, pairs=6_000) for group in _RFW_GROUPS),
        Source("ijbb", "templates", "IJB-B", _NIST, _IJB, images=227_630),
        Source("ijbc", "templates", "IJB-C", _NIST, _IJB, images=469_375),
        Source("tinyface", "templates", "TinyFace", _RESEARCH, "https://qmul-tinyface.github.io"),
        Source("adaface-ir50-casia", "weights", "AdaFace IR-50, CASIA-WebFace", "MIT; trained on research data", _ADAFACE, colour="bgr"),
        Source("adaface-ir101-webface4m", "weights", "AdaFace IR-101, WebFace4M", "MIT; trained on research data", _ADAFACE, colour="bgr"),
        Source(
            "inception-fid",
            "weights",
            "Inception of the Frechet distance (pt_inception-2015-12-05-6726825d.pth)",
            "Apache-2.0",
            "https://github.com/mseitzer/pytorch-fid/releases",
            colour="rgb",
            sha256="6726825d",
        ),
        Source(
            "dinov2-large",
            "weights",
            "DINOv2 ViT-L/14 of Hugging Face (facebook/dinov2-large)",
            "Apache-2.0",
            "https://huggingface.co/facebook/dinov2-large",
            colour="rgb",
            files=("config.json", "model.safetensors"),
        ),
        Source(
            "arc2face",
            "weights",
            "Arc2Face with the parts of Stable Diffusion 1.5 that it uses",
            "Arc2Face: MIT code, weights from research data (WebFace42M, non-commercial); Stable Diffusion 1.5: CreativeML OpenRAIL-M",
            "https://huggingface.co/FoivosPar/Arc2Face (arc2face/, encoder/, arcface.onnx) and "
            "https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5 (vae/, tokenizer/)",
            colour="rgb",
            files=(
                "arc2face/config.json",
                "arc2face/diffusion_pytorch_model.safetensors",
                "encoder/config.json",
                "encoder/model.safetensors|encoder/pytorch_model.bin",
                "vae/config.json",
                "vae/diffusion_pytorch_model.safetensors",
                "tokenizer/vocab.json",
                "arcface.onnx|arcface/encoder.json",
            ),
        ),
        Source(
            "vgg16-imagenet",
            "weights",
            "VGG-16 of torchvision (vgg16-397923af.pth), ImageNet",
            "BSD-3; trained on research data",
            "https://download.pytorch.org/models/vgg16-397923af.pth",
            colour="rgb",
            sha256="397923af",
        ),
        Source(
            "lpips-vgg",
            "weights",
            "Heads of LPIPS 0.1 on VGG-16 (lpips/weights/v0.1/vgg.pth)",
            "BSD-2",
            "https://github.com/richzhang/PerceptualSimilarity",
            colour="rgb",
            sha256="a78928a0",
        ),
    )
}
