"""Readers of files from elsewhere: what whole files they are tried on, how these are changed, and what is done with them."""

from __future__ import annotations

import io
import lzma
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from . import formats, mutate

Change = Callable[[bytes, Random], bytes]


@dataclass(frozen=True)
class Reader:
    make: Callable[[Path], None]  # writes whole files into an empty folder
    harm: Callable[[Path, Random, Path], None]  # changes something in a copy of it; the last is the cage's folder
    read: Callable[[Path, Random], object]  # in the child: reads the copy
    work: int = 0  # seconds that a case may compute besides
    cost: float = 1.0  # of a case, beside the others': fewer of dear ones are tried


PEOPLE, EACH = 3, 4


def face(number: int, width: int = 24, height: int = 20) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    image.save(out := io.BytesIO(), format, **options)
    return out.getvalue()


def faces() -> list[tuple[str, bytes]]:
    return [(f"p{row % PEOPLE}/{row}.png", encoded(face(row), "PNG")) for row in range(PEOPLE * EACH)]


# --------------------------------------------------------------------------------------------------------------- images

MODES = ("RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16", "F")


def _images(format: str, modes: tuple[str, ...], options: tuple[dict[str, Any], ...]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for mode in modes:
            picture = face(1) if not mode.startswith(("I", "F")) else face(1).convert("L")
            picture = Image.fromarray(np.asarray(picture, np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
            for number, option in enumerate(options):
                try:
                    (folder / f"{mode.replace(';', '')}-{number}.{format.lower()}").write_bytes(encoded(picture, format, **option))
                except (OSError, ValueError):  # a mode that the format or the option does not have
                    continue

    return make


def image(format: str, modes: tuple[str, ...], *options: dict[str, Any], change: Change = mutate.damage) -> Reader:
    def harm(folder: Path, random: Random, cage: Path) -> None:
        keep = random.choice(sorted(folder.iterdir()))
        for other in folder.iterdir():
            other.unlink() if other != keep else None
        data = keep.read_bytes()
        keep.write_bytes(change(data, random) if random.random() < 0.5 else mutate.damage(data, random))

    def read(folder: Path, random: Random) -> object:
        from synthbench.data import pixels

        (path,) = folder.iterdir()
        return pixels.fit(pixels.decode(path.read_bytes(), str(path)), 16)

    return Reader(_images(format, modes, options or ({},)), harm, read, cost=0.3)


# ---------------------------------------------------------------------------------------------------------------- sets


def one_of(pattern: str, change: Callable[[bytes, Random, Path, Path], bytes]) -> Callable[[Path, Random, Path], None]:
    """Change a file of the pattern; now and then something else in its place, or an odd name beside it."""

    def harm(folder: Path, random: Random, cage: Path) -> None:
        path = random.choice(sorted(path for path in folder.rglob(pattern) if path.is_file()))
        chance = random.random()
        if chance < 0.04:
            mutate.replace(path, random, cage)
        elif chance < 0.08:
            mutate.odd_name(path.parent, random)
        else:
            path.write_bytes(change(path.read_bytes(), random, path, cage))

    return harm


def by_turns(change: Change) -> Callable[[bytes, Random, Path, Path], bytes]:
    return lambda data, random, path, cage: change(data, random) if random.random() < 0.5 else mutate.damage(data, random)


def texts(data: bytes, random: Random, path: Path, cage: Path) -> bytes:
    return mutate.lines(data, random, cage)


def named(folder: Path, stem: str) -> Path:
    """What lies in the folder under that name with any ending; where nothing does any more, a path to nothing."""
    return next((path for path in sorted(folder.iterdir()) if path.name.startswith(stem)), folder / stem)


def read_set(folder: Path, random: Random, **reading: str) -> None:
    """Looked into, registered, imported: what `data add`, `data inspect` and the first stage of a run do."""
    from synthbench.data import inspection, sources
    from synthbench.data.faces import import_faces

    path = named(folder, "set")
    entry = sources.add("mine", path, kind="faces", **reading)
    found = sources.open_set(entry)
    if random.random() < 0.5:
        inspection.lines(inspection.inspect(found))
    import_faces(path, folder.parent / "out", 16, reading=entry.options, labelled=False)
    sources.verify("mine")


def make_folder(folder: Path) -> None:
    for name, data in faces():
        (folder / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "set" / name).write_bytes(data)


def make_listed(folder: Path) -> None:
    (folder / "set").mkdir()
    rows = faces()
    for number, (_, data) in enumerate(rows):
        (folder / "set" / f"{number:06}.png").write_bytes(data)
    (folder / "labels.txt").write_text("".join(f"{number:06}.png {name[1]}\n" for number, (name, _) in enumerate(rows)))


def make_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in faces():
            archive.writestr(name, data)


def make_rec(folder: Path) -> None:
    from synthbench.data.recordio import write_rec

    (folder / "set").mkdir()
    write_rec(folder / "set", iter([data for _, data in faces()]), np.repeat(np.arange(PEOPLE), EACH), 20)
    (folder / "set" / "train.lst").write_text("".join(f"{row}\t{row % 3}\tp{row % 3}/{row}.png\n" for row in range(1, 13)))


def harm_rec(folder: Path, random: Random, cage: Path) -> None:
    rec, lists = "*.rec", random.choice(("*.idx", "*.lst"))
    if random.random() < 0.2:
        (folder / "set" / "train.idx").unlink()
        rec = lists = "*.rec"
    one_of(rec, by_turns(formats.records))(folder, random, cage) if random.random() < 0.6 else one_of(lists, texts)(folder, random, cage)


def make_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "set").mkdir()
    rows = faces()
    for name, some in (("train-0", rows[:6]), ("train-1", rows[6:])):
        data = pa.table(
            {
                "image": [{"bytes": data, "path": name} for name, data in some],
                "label": [int(name[1]) for name, _ in some],
                "who": [name[:2] for name, _ in some],
            }
        )
        pq.write_table(data, folder / "set" / f"{name}.parquet", row_group_size=4)


def harm_parquet(folder: Path, random: Random, cage: Path) -> None:
    if random.random() < 0.35:
        path = random.choice(sorted((folder / "set").glob("*.parquet")))
        path.write_bytes(formats.parquet(random, faces()[0][1]))
        if random.random() < 0.6:
            for other in (folder / "set").glob("*.parquet"):
                other.unlink() if other != path else None
    else:
        one_of("*.parquet", by_turns(_footer))(folder, random, cage)


def _footer(data: bytes, random: Random) -> bytes:
    """The footer changed, where sizes and kinds stand."""
    size = int.from_bytes(data[-8:-4], "little")
    return data[: -8 - size] + mutate.damage(data[-8 - size : -8], random) + data[-8:]


def make_tar(folder: Path) -> None:
    (folder / "set").mkdir()
    for number in range(2):
        with tarfile.open(folder / "set" / f"{number}.tar", "w") as tar:
            for row, (name, data) in enumerate(faces()[6 * number : 6 * number + 6]):
                for ending, content in (
                    ("png", data),
                    ("cls", name[1].encode()),
                    ("json", f'{{"label": {name[1]}, "name": "x", "sample": 1}}'.encode()),
                ):
                    info = tarfile.TarInfo(f"{row:04}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def make_lmdb(folder: Path) -> None:
    import lmdb
    import msgpack

    rows = [(str(number).encode(), msgpack.packb((data, int(name[1])))) for number, (name, data) in enumerate(faces())]
    with lmdb.open(str(folder / "set"), map_size=2**20) as environment, environment.begin(write=True) as transaction:
        for key, value in rows:
            transaction.put(key, value)
        transaction.put(b"__len__", msgpack.packb(len(rows)))
        transaction.put(b"__keys__", msgpack.packb([key for key, _ in rows]))
    (folder / "set" / "lock.mdb").unlink()


def harm_lmdb(folder: Path, random: Random, cage: Path) -> None:
    if random.random() < 0.4:
        (folder / "set" / "data.mdb").unlink()
        formats.lmdb(folder / "set", random, faces()[0][1])
    if random.random() < 0.7:
        one_of("data.mdb", lambda data, random, path, cage: _page(data, random))(folder, random, cage)


def _page(data: bytes, random: Random) -> bytes:
    """A field of a page changed, the length kept: page number, flags, bounds, pointers, sizes of entries."""
    if random.random() < 0.25 or not data:
        return mutate.damage(data, random)
    page = random.randrange(max(1, len(data) // 4096)) * 4096
    at = page + random.choice((0, 8, 10, 12, 14, *range(16, 48, 2), *range(16, 160, 2), random.randrange(16, 4096)))
    size = random.choice((2, 2, 4, 8))
    return data[:at] + (mutate.number(random) % 256**size).to_bytes(size, "little") + data[at + size :]


# --------------------------------------------------------------------------------------------------------------- pairs


def make_bin(folder: Path) -> None:
    images = [data for _, data in faces()]
    (folder / "set.bin").write_bytes(pickle.dumps((images, [row % 2 == 0 for row in range(6)]), 2))


def harm_bin(folder: Path, random: Random, cage: Path) -> None:
    def change(data: bytes, random: Random, path: Path, cage: Path) -> bytes:
        return formats.pickled(random, faces()[0][1]) if random.random() < 0.5 else mutate.damage(data, random)

    one_of("*.bin", change)(folder, random, cage)


def harm_xz(folder: Path, random: Random, cage: Path) -> None:
    data = lzma.decompress((folder / "set.bin.xz").read_bytes())
    (folder / "set.bin.xz").write_bytes(formats.xz(data, random))


def make_xz(folder: Path) -> None:
    make_bin(folder)
    (folder / "set.bin.xz").write_bytes(lzma.compress((folder / "set.bin").read_bytes(), preset=0))
    (folder / "set.bin").unlink()


def read_pairs(folder: Path, random: Random) -> None:
    from synthbench.data import pairs, sources

    path = named(folder, "set")
    listed = folder / "pairs.txt"
    entry = sources.add("mine", path, kind="pairs", **({"pairs": str(listed)} if listed.exists() or listed.is_symlink() else {}))
    found = pairs.pairs_from_source(entry, 16)
    pairs.save_pairs(found, folder.parent / "kept")
    pairs.open_pairs(folder.parent / "kept")


PAIRS = (
    "6\np0/0.png p0/3.png 1\np1/1.png p1/4.png 1\np0/0.png p1/1.png 0\np2/2.png p1/1.png 0\n".replace("6\n", ""),
    "2\t1\np0\t1\t2\np0\t1\tp1\t1\np1\t1\t2\np0\t2\tp1\t2\n",
    "p0/0.png 1\np0/3.png 1\np0/0.png 0\np1/1.png 0\n",
    "left,right,same\np0/0.png,p0/3.png,True\np0/0.png,p1/1.png,False\n",
)


def make_pair_list(folder: Path) -> None:
    make_folder(folder)
    (folder / "pairs.txt").write_text(PAIRS[0])
    for who, number, source in (("p0", 1, "0.png"), ("p0", 2, "3.png"), ("p1", 1, "1.png"), ("p1", 2, "4.png")):
        (folder / "set" / who / f"{who}_{number:04}.png").write_bytes((folder / "set" / who / source).read_bytes())


def harm_pair_list(folder: Path, random: Random, cage: Path) -> None:
    (folder / "pairs.txt").write_text(random.choice(PAIRS))
    one_of("pairs.txt", texts)(folder, random, cage)


# -------------------------------------------------------------------------------------------------------- landmarks, YAML


def make_landmarks(folder: Path) -> None:
    make_folder(folder)
    rows = [
        f"{name} " + " ".join(str(value + row) for value in (5, 6, 15, 6, 10, 9, 6, 14, 14, 14)) for row, (name, _) in enumerate(faces())
    ]
    (folder / "marks.txt").write_text("12\nlefteye_x lefteye_y\n" + "\n".join(rows) + "\n")


def read_landmarks(folder: Path, random: Random) -> None:
    from synthbench.data import align
    from synthbench.data.readers import read_source

    found = read_source(folder / "set")
    align.align(found, folder.parent / "aligned", align.from_file(folder / "marks.txt", found))


def make_yaml(folder: Path) -> None:
    from fake_protocol import write_protocol

    write_protocol(folder)
    with open(folder / "tiny.yaml", "a") as file:
        file.write("generators:\n  procedural:\n    sample: {difficulty: 0.5}\n")
    (folder / "preset.yaml").write_text("generator: procedural\nabout: {title: x}\nsample:\n  difficulty: 0.5\n")


def read_yaml(folder: Path, random: Random) -> None:
    import os

    from .ours import told

    os.chdir(folder)
    which = random.choice(("procedural", "preset.yaml", "procedural", "cemiface"))
    first = ("run", which, "--protocol", "tiny.yaml", "--dry-run", "--no-tracking", "--runs", "../runs")
    told(
        *random.choice(
            (
                first,
                first,
                ("show", "tiny.yaml"),
                ("show", "recipe.yaml"),
                ("show", "preset.yaml"),
                ("data", "status", "--protocol", "tiny.yaml"),
            )
        )
    )


# -------------------------------------------------------------------------------------------------------------- networks


def tiny_weights() -> dict[str, Any]:
    """Of a whole iresnet-18, with one number for many: what counts are names and shapes."""
    import torch

    from synthbench.models.iresnet import IResNet

    torch.manual_seed(0)
    return {name: value.half() for name, value in IResNet(depth=18, resolution=16, dim=4).state_dict().items()}


def make_torch(folder: Path) -> None:
    import torch

    torch.save({"weights": torch.zeros(3)}, folder / "net.pt")


def harm_torch(folder: Path, random: Random, cage: Path) -> None:
    import torch

    small = {
        "layer1.0.bn1.weight": torch.zeros(4),
        "layer1.0.conv1.weight": torch.zeros(4, 3, 3, 3),
        "fc.weight": torch.zeros(4, 512),
        "fc.bias": torch.zeros(4),
    }
    data = formats.torch_file(random, small)
    if random.random() < 0.3:
        torch.save(small, out := io.BytesIO(), _use_new_zipfile_serialization=random.random() < 0.5)
        data = mutate.damage(out.getvalue(), random)
    (folder / "net.pt").write_bytes(data)


def make_safetensors(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(tiny_weights(), folder / "net.safetensors")


def make_encoder(folder: Path) -> None:
    from synthbench.models.encoder import build, save_encoder

    architecture = {"family": "small", "width": 8, "dropout": 0.0}
    save_encoder(build(architecture, 16, 8), folder / "net", {"architecture": architecture, "resolution": 16, "dim": 8})


def harm_encoder(folder: Path, random: Random, cage: Path) -> None:
    if random.random() < 0.6:
        one_of("encoder.json", lambda data, random, path, cage: mutate.json_text(data, random, cage))(folder, random, cage)
    else:
        one_of("*.safetensors", by_turns(formats.safetensors))(folder, random, cage)


def make_onnx(folder: Path) -> None:
    (folder / "net.onnx").write_bytes(formats.onnx(Random(3), whole=True))


def harm_onnx(folder: Path, random: Random, cage: Path) -> None:
    data = formats.onnx(random)
    (folder / "net.onnx").write_bytes(mutate.damage(data, random) if random.random() < 0.5 else data)


def read_network(folder: Path, random: Random) -> None:
    """Looked into when it is registered or scored, then loaded; its embedding of two images."""
    import torch

    from synthbench.models import checkpoints

    path = named(folder, "net")
    checkpoints.limited = by_fork
    colour = None if path.is_dir() else random.choice(("rgb", "bgr"))
    checkpoints.look(path, colour=colour)
    encoder = checkpoints.load_checkpoint(path, colour=colour)
    encoder.embed(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))


def by_fork(function: Callable[..., None], path: Path, silent: bool = False, **options: Any) -> None:
    """As limits.limited, in a child of this process: to start Python and torch anew for thousands of cases takes hours."""
    import os
    import signal
    import time

    from synthbench.models import limits
    from synthbench.types import UserError

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = limits.within(function.__module__, function.__qualname__, str(path), options, 8, 2**30)
        except BaseException as error:
            said = f"9\n{type(error).__name__}: {error}".encode("utf-8", "backslashreplace")
        os.write(writing, said)
        os._exit(0)
    os.close(writing)
    end = time.monotonic() + 6
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise UserError("takes more time than it may")
        time.sleep(0.01)
    code, _, said = os.read(reading, 1 << 16).decode("utf-8", "replace").partition("\n")
    if code == "9":
        raise RuntimeError(said)
    if code != "0":
        raise UserError(said or "died")


def read_spawned(folder: Path, random: Random) -> None:
    """The same with the process that users get, which takes seconds."""
    from synthbench.data import sources
    from synthbench.models import limits

    limits.SECONDS = 8
    path = named(folder, "net")
    sources.add("mine", path, kind="weights", colour="rgb")


def make_checkpoint(folder: Path) -> None:
    import torch

    from synthbench.training import loop

    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    loop.save(folder / "checkpoint.pt", 4, {"network": net, "optimizer": optimizer})
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": {step}, "loss": 0.5, "images_per_second": 3.0}}\n' for step in range(8)))


def harm_checkpoint(folder: Path, random: Random, cage: Path) -> None:
    import torch

    if random.random() < 0.3:
        one_of("metrics.jsonl", lambda data, random, path, cage: mutate.json_text(data, random, cage))(folder, random, cage)
    elif random.random() < 0.5:
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        part = random.choice(
            (
                state,
                state["network"],
                state["optimizer"],
                state["optimizer"]["state"],
                state["optimizer"]["state"][0],
                state["optimizer"]["param_groups"][0],
            )
        )
        part[random.choice(list(part))] = random.choice(
            (torch.zeros(3), torch.zeros(0), torch.zeros(1).to_sparse(), None, 1, -1, 2.5, "x", {}, [], 2**63, float("nan"))
        )
        torch.save(state, folder / "checkpoint.pt")
    else:
        one_of("checkpoint.pt", lambda data, random, path, cage: mutate.damage(data, random))(folder, random, cage)


def read_checkpoint(folder: Path, random: Random) -> None:
    import torch

    from synthbench.training import loop

    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    step = loop.restore(folder / "checkpoint.pt", {"network": net, "optimizer": optimizer})
    loop.cut_log(folder / "metrics.jsonl", step)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()


# ------------------------------------------------------------------------------------------------------------- bundles


def make_bundle(folder: Path) -> None:
    from fake_bundles import make

    from synthbench.leaderboard import bundle

    make(folder / "r", names=("pairs-a",))
    bundle.bundle("maker", folder / "r", folder / "set.zip", weights=True)
    shutil.rmtree(folder / "r")


def a_bundle(data: bytes, random: Random, path: Path, cage: Path) -> bytes:
    change = random.choice((formats.bundled, formats.bundled, formats.bundled, formats.zipped, mutate.damage))
    return change(data, random)


def read_bundle(folder: Path, random: Random) -> None:
    from synthbench.leaderboard import site

    site.build([named(folder, "set")], folder / "site")


READERS = {
    "png": image("PNG", ("RGB", "L", "P", "RGBA", "1", "I;16"), change=formats.png),
    "jpeg": image("JPEG", ("RGB", "L", "CMYK"), {}, {"progressive": True}, {"quality": 30, "subsampling": 2, "optimize": True},
    change=formats.jpeg),
    "bmp": image("BMP", ("RGB", "L", "P", "1", "RGBA")),
    "webp": image("WEBP", ("RGB", "RGBA"), {}, {"lossless": True}, {"save_all": True, "append_images": [face(2)]}),
    "tiff": image("TIFF", MODES, {}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "jpeg"},
    {"compression": "packbits"}, {"compression": "group4"}),
    "ppm": image("PPM", ("RGB", "L", "1", "I;16"), change=lambda data, random: mutate.lines(data[:12], random) + data[12:]),
    "gif": image("GIF", ("P", "L"), {}, {"interlace": 1}, {"save_all": True, "append_images": [face(2)], "duration": 10}),
    "folder": Reader(make_folder, one_of("*.png", by_turns(formats.png)), read_set),
    "labels": Reader(make_listed, one_of("labels.txt", texts), lambda folder,
    random: read_set(folder, random, labels=str(folder / "labels.txt"))),
    "zip": Reader(make_zip, one_of("*.zip", by_turns(formats.zipped)), read_set),
    "bundle": Reader(make_bundle, one_of("*.zip", a_bundle), read_bundle, work=20, cost=3.0),
    "rec": Reader(make_rec, harm_rec, read_set),
    "parquet": Reader(make_parquet, harm_parquet, read_set),
    "webdataset": Reader(make_tar, one_of("*.tar", by_turns(formats.tarred)), read_set),
    "lmdb": Reader(make_lmdb, harm_lmdb, read_set),
    "bin": Reader(make_bin, harm_bin, read_pairs),
    "bin.xz": Reader(make_xz, harm_xz, read_pairs),
    "pairs": Reader(make_pair_list, harm_pair_list, read_pairs),
    "landmarks": Reader(make_landmarks, one_of("marks.txt", texts), read_landmarks),
    "yaml": Reader(make_yaml, one_of("*.yaml", texts), read_yaml),
    "onnx": Reader(make_onnx, harm_onnx, read_network),
    "onnx, spawned": Reader(make_onnx, harm_onnx, read_spawned, work=20, cost=40.0),  # it imports torch and onnxruntime anew
    "torch": Reader(make_torch, harm_torch, read_network),
    "safetensors": Reader(make_safetensors, one_of("*.safetensors", by_turns(formats.safetensors)), read_network, cost=2.0),
    "encoder": Reader(make_encoder, harm_encoder, read_network),
    "checkpoint": Reader(make_checkpoint, harm_checkpoint, read_checkpoint, cost=0.5),
}  # fmt: skip
