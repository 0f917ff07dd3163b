"""Arc2Face with tiny random weights: the identity in the prompt, samples against diffusers' pipeline, what is said when files lack."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from synthbench import testing
from synthbench.config import Layer, build, config_path, parse_set, read_layer
from synthbench.data import sources
from synthbench.generators import arc2face
from synthbench.generators.arc2face import Arc2Face, Config
from synthbench.identities import flow
from synthbench.models.encoder import read_tensors, save_encoder
from synthbench.models.size import count
from synthbench.plugin import Context
from synthbench.seeds import torch_generator
from synthbench.testing.world import rendered, tiny_encoder
from synthbench.types import DataMissing, Slot, UserError, Volume
from synthbench.world import heads

transformers = pytest.importorskip("transformers")
WORDS = ["photo</w>", "of</w>", "a</w>", "id</w>", "person</w>", "<|startoftext|>", "<|endoftext|>"]
FFHQ = ((192.98138, 239.94708), (318.90277, 240.1936), (256.63416, 314.01935), (201.26117, 371.41043), (313.08905, 371.15118))  # of 512 px


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the published ones are laid out, with networks of a thousandth of their size."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    folder = tmp_path_factory.mktemp("arc2face")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=48, attention_head_dim=8, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    config = transformers.CLIPTextConfig(
        vocab_size=7, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, bos_token_id=5, eos_token_id=6
    )
    for name, network in (("arc2face", unet), ("vae", vae), ("encoder", transformers.CLIPTextModel(config))):
        network.save_pretrained(folder / name)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    encoder = tiny_encoder(rendered("judge"), 3)
    spec = {"architecture": {"family": "small", "width": 8, "dropout": 0.0}, "resolution": 32, "dim": 32}
    save_encoder(encoder.net, folder / "arcface", spec)
    return folder


def generator(weights: Path, **changes) -> Arc2Face:
    enroll = {"weights": str(weights), "threshold": 1.0, **changes.get("enroll", {})}
    return Arc2Face(build(Config, Layer({"enroll": enroll, "sample": {"steps": 4, **changes.get("sample", {})}})))


def context(out: Path, seed: int = 0) -> Context:
    out.mkdir(exist_ok=True)
    faces = rendered("train")
    return Context(out, seed, 32, torch.device("cpu"), faces, tiny_encoder(faces, 0), {"enroll": out}, batch_size=8)


def test_the_contract(weights: Path) -> None:
    assert list(testing.check("arc2face", [f"enroll.weights={weights}"]))


def test_the_identity_takes_the_place_of_one_token_of_the_prompt(weights: Path) -> None:
    parts = arc2face.load(weights, torch.device("cpu"))
    unit = F.normalize(torch.randn(3, 32, generator=torch.Generator().manual_seed(1)), dim=1)
    with torch.no_grad():
        told = parts.told(unit)
        ids = torch.tensor([[5, 0, 1, 2, 3, 4, *[6] * 71]])
        table, empty = parts.text.get_input_embeddings().weight, parts.text(input_ids=torch.tensor([[5, *[6] * 76]])).last_hidden_state
        before = table[3].clone()
        for i in range(3):
            table[3] = F.pad(unit[i], (0, 16))
            torch.testing.assert_close(told[3 + i], parts.text(input_ids=ids).last_hidden_state[0], atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(told[i], empty[0], atol=1e-6, rtol=1e-5)
        table[3] = before
    assert (told[3:, :4] - told[3:4, :4]).abs().max() < 1e-6  # a causal encoder: what comes before the identity knows nothing of it
    assert (told[4] - told[3]).abs()[5:].max() > 1e-3


def test_samples_are_those_of_diffusers_pipeline(weights: Path, tmp_path: Path) -> None:
    from diffusers import DPMSolverMultistepScheduler, PNDMScheduler, StableDiffusionPipeline

    made, where = generator(weights, sample={"crop": (0.0, 0.0, 1.0)}), replace(context(tmp_path / "enroll"), resolution=64)
    made.enroll(3, where)
    slots = [Slot(0, 0), Slot(0, 1), Slot(2, 5)]
    (batch,) = made.generate(slots, where)
    parts = arc2face.load(weights, torch.device("cpu"))
    codes = read_tensors(tmp_path / "enroll" / "codes.safetensors")["codes"]
    with torch.no_grad():
        told = parts.told(codes[[0, 0, 2]])
    published = PNDMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    pipeline = StableDiffusionPipeline(
        parts.vae, parts.text, None, parts.unet, DPMSolverMultistepScheduler.from_config(published.config), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.stack([torch.randn(4, 8, 8, generator=torch_generator(0, "image", *slot)) for slot in slots])
    want = pipeline(
        prompt_embeds=told[3:], negative_prompt_embeds=told[:3], latents=noise, guidance_scale=3.0, num_inference_steps=4, height=64,
        width=64, output_type="pt",
    ).images  # fmt: skip
    assert (batch.images.int() - (want * 255).round().int()).abs().max() <= 1
    assert batch.images.float().std() > 5 and batch.columns["sample"].tolist() == [0, 1, 5]


def test_idperturb_turns_what_is_told(weights: Path, tmp_path: Path, unrounded: Callable[[], int]) -> None:
    where = context(tmp_path / "enroll")
    kinds = [generator(weights, enroll={"threshold": 0.999}, sample={"perturb": lowest}) for lowest in (1.0, 0.5, 0.5)]
    kinds[0].enroll(2, where)
    plain, one, again = (next(iter(made.generate([Slot(0, 0), Slot(1, 0)], where))).images for made in kinds)
    assert torch.equal(one, again) and plain.shape == one.shape and unrounded() == 4
    with pytest.raises(UserError, match="perturb keeps an image nearer"):
        build(Config, parse_set(["sample.perturb=0.5", "enroll.threshold=1"]))


def test_a_flow_is_of_its_own_arcface(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "TRAINING", flow.TRAINING.model_copy(update={"steps": 2}))
    seen: list[torch.Tensor] = []
    learn = flow.learn
    monkeypatch.setattr(flow, "learn", lambda unit, *more: seen.append(unit) or learn(unit, *more))
    where, made = context(tmp_path / "enroll"), generator(weights, sample={"perturb": 0.2, "directions": "flow"})
    made.enroll(2, where)
    (batch,) = made.generate([Slot(0, 0), Slot(1, 0)], where)
    torch.testing.assert_close(seen[0], torch.from_numpy(arc2face.load_arcface(weights).embed_all(where.faces)), atol=1e-4, rtol=0)
    (plain,) = generator(weights).generate([Slot(0, 0), Slot(1, 0)], where)
    assert not torch.equal(batch.images, plain.images)


def test_the_crop_brings_ffhq_faces_to_the_arcface_template() -> None:
    have, want = np.array(FFHQ), np.array(heads.TEMPLATE)
    a, b = have - have.mean(0), want - want.mean(0)
    scale = (a * b).sum() / (a * a).sum()  # least squares
    corner = have.mean(0) - want.mean(0) / scale
    left, top, side = Config().sample.crop
    assert np.allclose([left, top, side], [*corner / 512, heads.FRAME / scale / 512], atol=1e-3)
    assert np.abs((have - [left * 512, top * 512]) / (side * 512) * 112 - want).max() < 2.5  # px of 112: how far a mean face is off
    pictures = torch.linspace(-1, 1, 512).expand(1, 3, 512, 512)
    small = arc2face.cropped(pictures, (0.25, 0.25, 0.5), 8)
    assert small.shape == (1, 3, 8, 8) and small.dtype == torch.uint8
    assert np.allclose(small[0, 0, 0], 127.5 + 127.5 * (np.arange(8) + 0.5 - 4) / 8, atol=1.5)


def test_identities_are_distributed_like_the_real_set(weights: Path, tmp_path: Path) -> None:
    where, arcface = context(tmp_path / "enroll"), arc2face.load_arcface(weights)
    mean, root = arc2face.distribution(arcface, 10_000, where)
    unit = arcface.embed(where.faces.images(slice(None))).double().numpy()
    assert np.allclose(mean, unit.mean(0), atol=1e-6)
    assert np.allclose((root @ root.T).double(), np.cov(unit.T), atol=1e-6)
    few, _ = arc2face.distribution(arcface, 10, where)
    assert not torch.equal(few, mean)
    generator(weights).enroll(300, where)
    codes = read_tensors(tmp_path / "enroll" / "codes.safetensors")["codes"]
    assert codes.shape == (300, 32) and torch.allclose(codes.norm(dim=1), torch.ones(300))
    assert F.cosine_similarity(codes.mean(0), mean, dim=0) > 0.95


def test_no_two_identities_are_alike_or_it_says_how_many_fit(weights: Path, tmp_path: Path) -> None:
    generator(weights, enroll={"threshold": 0.999}).enroll(8, context(tmp_path / "a"))
    codes = read_tensors(tmp_path / "a" / "codes.safetensors")["codes"]
    assert (codes @ codes.T - 2 * torch.eye(8)).max() < 0.999
    with pytest.raises(UserError, match=r"enroll.source pca: of [\d,]+ directions in 32 dimensions \d+ fit .* Ask for a volume of at most"):
        generator(weights, enroll={"threshold": -0.5, "tries": 1}).enroll(50, context(tmp_path / "b"))


def test_people_on_images_are_embedded_by_arc2faces_own_arcface(weights: Path, tmp_path: Path) -> None:
    where, made = context(tmp_path / "enroll"), generator(weights, enroll={"source": "real"})
    made.enroll(3, where)
    codes = read_tensors(tmp_path / "enroll" / "codes.safetensors")["codes"]
    first = np.unique(where.faces.identity, return_index=True)[1][:3]
    want = arc2face.load_arcface(weights).embed(where.faces.images(first))
    assert torch.allclose(F.normalize(codes, dim=1), want, atol=1e-4) and (tmp_path / "enroll" / "inquiries").is_dir()
    assert (next(iter(made.generate([Slot(0, 0)], where))).images).shape == (1, 3, 32, 32)


def test_weights_are_registered_by_name(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))
    with pytest.raises(DataMissing) as error:
        Arc2Face(Config()).sources(112)
    said = ("nothing is ever downloaded", "OpenRAIL", "WebFace42M", "huggingface.co/FoivosPar/Arc2Face", "synthbench data add arc2face DIR")
    files = ("arc2face/diffusion_pytorch_model.safetensors", "encoder/pytorch_model.bin", "tokenizer/vocab.json", "arcface.onnx")
    for words in (*said, *files):
        assert words in str(error.value)
    entry = sources.add("arc2face", weights)
    assert Arc2Face(Config()).sources(112) == {"weights": entry.digest} and arc2face.folder("arc2face") == weights


def copied(weights: Path, to: Path) -> Path:
    for path in weights.rglob("*"):
        if path.is_file():
            (to / path.relative_to(weights)).parent.mkdir(parents=True, exist_ok=True)
            (to / path.relative_to(weights)).write_bytes(path.read_bytes())
    return to


def test_files_that_lack_are_named(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))
    copy = copied(weights, tmp_path / "copy")
    (copy / "vae" / "config.json").unlink()
    (copy / "encoder" / "model.safetensors").unlink()
    for attempt in (lambda: generator(copy).sources(112), lambda: sources.add("arc2face", copy)):
        with pytest.raises(
            DataMissing, match=r"lacks encoder/model.safetensors or encoder/pytorch_model.bin, vae/config.json of .*Licence"
        ):
            attempt()
    with pytest.raises(UserError, match="no data or weights are called 'arc3face'"):
        generator(Path("arc3face")).sources(112)


def test_files_that_do_not_fit_are_named(weights: Path, tmp_path: Path) -> None:
    copy, cpu = copied(weights, tmp_path / "copy"), torch.device("cpu")
    (copy / "tokenizer" / "vocab.json").write_text("{}")
    with pytest.raises(UserError, match=r"vocab.json is not the vocabulary of CLIP's tokenizer"):
        arc2face.load(copy, cpu)
    path = copy / "arc2face" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor for name, tensor in tensors.items() if name != "conv_in.weight"}, path)
    with pytest.raises(UserError, match=r"arc2face has no conv_in.weight, which UNet2DConditionModel needs"):
        arc2face.load(copy, cpu)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"arc2face cannot be read as UNet2DConditionModel"):
        arc2face.load(copy, cpu)
    with pytest.raises(UserError, match=r"text encoder is 48 wide, the ArcFace vector 64"):
        arc2face.load(weights, cpu).told(torch.ones(1, 64))


def test_without_transformers_it_says_what_to_install(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = generator(weights)
    made.check(Volume.parse("9x9"), None)
    monkeypatch.setattr(arc2face.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'synthbench\[arc2face\]'"):
        made.check(Volume.parse("9x9"), None)


@pytest.mark.parametrize("setting", ["crop=[0.5,0.5,0]", "crop=[1.2,0,0.5]", "crop=[-0.1,0,0.5]", "steps=1000"])
def test_settings_without_a_picture_are_refused(setting: str) -> None:
    with pytest.raises(UserError, match=r"sample\."):
        build(Config, parse_set([f"sample.{setting}"]))


def test_the_file_is_the_default_and_the_size_that_of_stable_diffusion() -> None:
    shipped = read_layer(config_path("generators", "arc2face"))
    assert build(Config, shipped) == Config()
    assert {key for part in ("enroll", "sample") for key in shipped.data[part]} == {
        *(arc2face.Enroll.model_fields.keys() - {"skip_damaged"}),  # of sources that are none here
        *arc2face.Sample.model_fields,
    }
    with torch.device("meta"):
        ((unet, inputs),) = Arc2Face(Config()).networks(112, 512).values()
        parameters, macs = count(unet, *inputs)
    assert parameters == 859_520_964 and 2 * macs / 1e9 == pytest.approx(803, abs=1)
