"""Where formats hurt: changes that keep checksums and lengths right, so that they reach what lies behind, and files nobody would write."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import lzma
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path
from random import Random
from typing import Any

from .mutate import MAGICS, VALUES, damage, json_text, number, text


def png(data: bytes, random: Random) -> bytes:
    """Chunks changed, their checksums right."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    what, here = random.randrange(7), random.randrange(len(chunks))
    kind, body = chunks[here]
    bomb = zlib.compress(bytes(30_000_000), 9) if what == 0 else b""
    new = {
        0: [random.choice(((b"zTXt", b"x\0\0" + bomb), (b"iCCP", b"x\0\0" + bomb), (b"iTXt", b"x\0\1\0\0\0" + bomb), (b"IDAT", bomb)))],
        1: [
            (random.choice((b"acTL", b"fcTL", b"tRNS", b"PLTE", b"gAMA", b"eXIf", b"tIME", b"fdAT", b"\0\0\0\0")), damage(bytes(8), random))
        ],
    }
    if what < 2:
        chunks[here + (here == 0) : here + (here == 0)] = new[what]
    elif what == 2:
        head = bytearray(chunks[0][1])
        size = random.choice(((0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1)))
        head[size[0] : sum(size)] = (number(random) % 256 ** size[1]).to_bytes(size[1], "big")
        chunks[0] = (chunks[0][0], bytes(head))
    elif what == 3:
        rows = zlib.compress(damage(zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT")), random))
        chunks = [(kind, rows if kind == b"IDAT" else body) for kind, body in chunks]
    else:
        chunks[here : here + 1] = [[], [(kind, body)] * 2, [(kind, damage(body, random))]][what - 4]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)


def jpeg(data: bytes, random: Random) -> bytes:
    """Segments changed, doubled, cut; the end marker stays where it would hide a cut."""
    if random.random() < 0.3:
        scan = data.rindex(b"\xff\xda") + 12
        return data[: random.randrange(scan, len(data))] + b"\xff\xd9"
    at, parts = 2, []
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big") + 2
        parts.append(data[at : at + length])
        at += length
    here = random.randrange(len(parts))
    part = parts[here]
    body = damage(part[4:], random)[:65_000]
    changed = part[:2] + (len(body) + 2).to_bytes(2, "big") + body
    exif = b"\xff\xe1" + struct.pack(">H", 32) + b"Exif\0\0II*\0\x08\0\0\0" + damage(bytes(16), random)[:16].ljust(16)
    parts[here : here + 1] = random.choice(([changed], [changed], [part] * random.choice((2, 300)), [], [part, exif]))
    return data[:2] + b"".join(parts) + data[at:]


def zipped(data: bytes, random: Random) -> bytes:
    """The entries written anew, one of them odd; then sometimes the directory lies."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    out, here = io.BytesIO(), random.randrange(len(entries))
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", random.choice((0, 8, 12, 14)), allowZip64=True) as archive:
        warnings.simplefilter("ignore")
        for row, (name, content) in enumerate(entries):
            if row == here:
                what = random.randrange(6)
                name = (
                    (text(random).encode("utf-8", "replace").decode() + random.choice(("", ".png"))).replace("\0", "_")[:60_000]
                    if what < 3
                    else name
                )
                content = damage(content, random) if what == 3 else bytes(70_000_000) if what == 4 and random.random() < 0.3 else content
                if what == 5:
                    archive.writestr(name, content)
            archive.writestr(name or "x", content)
    made = bytearray(out.getvalue())
    if random.random() < 0.5:
        directory = made.rfind(b"PK\x01\x02")
        offset, size = random.choice(
            ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (34, 2), (38, 4), (42, 4))
        )
        made[directory + offset : directory + offset + size] = (number(random) % 256**size).to_bytes(size, "little")
    return bytes(made)


def bundled(data: bytes, random: Random) -> bytes:
    """One file of a bundle changed, and its digest right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = random.choice([*files, *(name for name in files if name.endswith(".json")), *(name for name in files if name.endswith(".npz"))])
    change = {"json": json_text, "npz": npz, "safetensors": safetensors}.get(name.rpartition(".")[2], damage)
    files[name] = (change if random.random() < 0.8 else damage)(files[name], random)
    with contextlib.suppress(ValueError, TypeError):
        about = json.loads(files["bundle.json"])
        about["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != "bundle.json"}
        files["bundle.json"] = json.dumps(about).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(data: bytes, random: Random) -> bytes:
    """The members written anew, one of them odd; header checksums right."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as tar,
        tarfile.open(fileobj=out, mode="w", format=random.choice((0, 1, 2)), errors="surrogateescape") as new,
    ):
        members = tar.getmembers()
        here = random.randrange(len(members))
        for row, member in enumerate(members):
            content = tar.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
            if row == here:
                what = random.randrange(7)
                if what == 0:
                    member.name = text(random).replace("\0", "_").encode("utf-8", "replace").decode()[:2000] + random.choice(
                        ("", ".png", ".cls", ".json")
                    )
                elif what == 1:
                    member.type, member.linkname = (
                        random.choice((b"1", b"2", b"3", b"4", b"5", b"6", b"S", b"V", b"K", b"x", b"g")),
                        "../../outside/victim",
                    )
                elif what == 2:
                    content = random.choice(
                        (text(random).encode("utf-8", "surrogatepass"), json_text(content, random), damage(content, random))
                    )
                elif what == 3:
                    member.pax_headers = {
                        random.choice(("size", "path", "GNU.sparse.major", "GNU.sparse.map", "mtime", "x" * 300)): str(number(random))
                    }
                elif what == 4:
                    member.mtime, member.uid = random.choice((-1, 0, 2**33)), number(random) % 2**33
                elif what == 5:
                    new.addfile(member, io.BytesIO(content))
                member.size = len(content)
            try:
                new.addfile(member, io.BytesIO(content))
            except (ValueError, UnicodeError, OverflowError):
                continue
    made = bytearray(out.getvalue())
    if random.random() < 0.3:  # a size that lies
        at = random.randrange(max(1, len(made) // 512)) * 512
        if made[at + 257 : at + 262] == b"ustar":
            made[at + 124 : at + 136] = random.choice(
                (b"77777777777\0", b"00000000000\0", b"\x80" + bytes(3) + b"\xff" * 8, b"\xff" * 12, b"zzzzzzzzzzz\0")
            )
            made[at + 148 : at + 156] = b" " * 8
            made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + 512])
    return bytes(made)


def safetensors(data: bytes, random: Random) -> bytes:
    """The header changed, its length right; or a length that lies."""
    size = int.from_bytes(data[:8], "little")
    header = json_text(data[8 : 8 + size], random)
    if random.random() < 0.4:
        tree = json.loads(data[8 : 8 + size])
        entry = tree[random.choice([name for name in tree if name != "__metadata__"])]
        what = random.choice(("shape", "dtype", "data_offsets"))
        entry[what] = (
            random.choice(("F64", "BOOL", "U8", "F8_E4M3", "I64", "C64", "x")) if what == "dtype" else [number(random) for _ in entry[what]]
        )
        header = json.dumps(tree).encode()
    return struct.pack("<Q", len(header) if random.random() < 0.9 else number(random) % 2**64) + header + data[8 + size :]


def records(data: bytes, random: Random) -> bytes:
    """A .rec whose part headers and record headers are changed in place."""
    at, places = 0, []
    while at + 8 <= len(data):
        places.append(at)
        at += 8 + (int.from_bytes(data[at + 4 : at + 8], "little") & 0x1FFFFFFF) + 3 & ~3
    at = random.choice(places) + random.choice((4, 4, 8, 8, 12, 16, 24))
    odd = random.choice(
        (struct.pack("<I", number(random) % 2**32), struct.pack("<f", random.choice((float("nan"), 1e30, -1, 0.5, float("inf")))))
    )
    return data[:at] + odd + data[at + 4 :]


class Hostile:
    """What a pickle calls when it is loaded by pickle."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


def pickled(random: Random, image: bytes) -> bytes:
    """A benchmark that is none."""
    import os
    import subprocess

    import numpy as np

    array = np.frombuffer(image, np.uint8)
    items = (
        image, b"", image[:50], array, array.reshape(1, -1), np.zeros((0,), np.uint8), np.zeros((4, 4, 3), np.uint8),
        np.zeros((0, 0, 3), np.uint8), np.zeros((2, 2, 2, 3), np.uint8),
        np.zeros(3), np.array(image), np.array([image], object), bytearray(image), [image], (image,), {"a": image},
        Hostile(os.system, "gs"), Hostile(subprocess.Popen, ["gs"]),
        Hostile(open, "../../outside/new", "w"), Hostile(eval, "1"), Hostile(bytearray, 2**40), np.zeros((1, 2**20, 3), np.uint8), *VALUES,
    )  # fmt: skip
    truths = (True, False, 0, 1, 2, -1, 0.5, "1", np.bool_(True), np.int64(1), np.float32(1), None, b"1", [1], 10**5000)
    count = random.choice((0, 1, 2, 12))
    images = [random.choice(items) if random.random() < 0.3 else image for _ in range(2 * count + random.choice((0, 0, 0, 1)))]
    same: Any = [random.choice(truths) if random.random() < 0.2 else i % 2 == 0 for i in range(count)]
    same = random.choice((same, same, tuple(same), np.array([i % 2 for i in range(count)]), np.array(same, object)))
    thing = random.choice(
        (
            (images, same),
            (images, same),
            [images, same],
            (images,),
            images,
            {"images": images},
            (same, images),
            (np.array(images, object), same),
            random.choice(items),
        )
    )
    try:
        return pickle.dumps(thing, random.randrange(6))
    except (OverflowError, ValueError, pickle.PicklingError):
        return pickle.dumps(None)


def xz(data: bytes, random: Random) -> bytes:
    return (
        lzma.compress(damage(data, random), random.choice((lzma.FORMAT_XZ, lzma.FORMAT_ALONE)), preset=0)
        if random.random() < 0.6
        else damage(lzma.compress(data, preset=0), random)
    )


def parquet(random: Random, image: bytes) -> bytes:
    """A table of kinds that a set of faces has no use for."""
    import datetime
    import decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = random.choice((0, 1, 2, 12))
    labels = (
        pa.array([i % 3 for i in range(rows)], random.choice((pa.int8(), pa.uint64(), pa.int64()))), pa.array([None] * rows, pa.int64()),
        pa.nulls(rows), pa.array([-1] * rows),
        pa.array([i % 2 or None for i in range(rows)], pa.int64()),
        pa.array([random.choice(("a", "b", "", "\0", "x" * 9999)) for _ in range(rows)]),
        pa.array([2**63 - 1 - i % 2 for i in range(rows)]),
        pa.array([2**64 - 1 - i % 2 for i in range(rows)], pa.uint64()),
        pa.array([random.choice((0.5, float("nan"), 1.0, float("inf"))) for _ in range(rows)]), pa.array([i % 2 == 0 for i in range(rows)]),
        pa.array([[i % 2] for i in range(rows)]), pa.array([{"x": i % 2} for i in range(rows)], pa.struct([("x", pa.int64())])),
        pa.array([decimal.Decimal(i % 2) for i in range(rows)], pa.decimal128(9)),
        pa.array([datetime.date(2020, 1, 1 + i % 2) for i in range(rows)], pa.date32()), pa.array([b"a"] * rows),
        pa.array([str(i % 2) for i in range(rows)]).dictionary_encode(), pa.array([i % 2 for i in range(rows)]).dictionary_encode(),
        pa.array([b"\xff\xfe"] * rows, pa.binary()).view(pa.utf8()) if rows else pa.array([], pa.utf8()),
        pa.array([1.5] * rows, pa.float32()), pa.array([str(i % 2) for i in range(rows)], pa.large_utf8()),
    )  # fmt: skip
    contents = [random.choice((image, image, image, b"", None, image[:40], bytes(10))) for _ in range(rows)]
    images = random.choice((
        pa.array([{"bytes": c, "path": "x.png"} for c in contents], pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.array(contents, pa.binary()), pa.array(contents, pa.large_binary()),
        pa.array([{"bytes": c} for c in contents], pa.struct([("bytes", pa.binary())])),
        pa.array([[c] for c in contents], pa.list_(pa.binary())), pa.array([{"path": "../../outside/victim"}] * rows),
        pa.array(contents, pa.binary()).dictionary_encode(), pa.array([None] * rows, pa.struct([("bytes", pa.binary())])),
    ))  # fmt: skip
    names = [
        "image",
        *(
            random.choice(("label", "identity", "id", "x", "image", "", "\0", "person_id", "label2", "weight", "name"))
            for _ in range(random.choice((0, 1, 1, 2, 3)))
        ),
    ]
    table = pa.Table.from_arrays([images, *(random.choice(labels) for _ in names[1:])], names=names)
    told = random.choice(
        (
            None,
            None,
            b"{",
            b"[" * 50_000,
            b'{"info": {"features": {"label": {"names": ["a"]}}}}',
            b'{"info": {"features": {"label": {"names": [1, null]}}}}',
            b'{"info": []}',
            b"\xff",
        )
    )
    table = table.replace_schema_metadata({b"huggingface": told}) if told else table
    out = io.BytesIO()
    try:
        pq.write_table(table, out, row_group_size=random.choice((1, 5, 100)), compression=random.choice(("none", "snappy", "zstd", "gzip")))
    except Exception:
        return b"PAR1"
    return out.getvalue()


def lmdb(folder: Path, random: Random, image: bytes) -> None:
    """Keys and values that are none."""
    import lmdb as library
    import msgpack

    count = random.choice((0, 1, 2, 12))
    keys: Any = [str(i).encode() for i in range(count)]
    values = (
        image,
        b"",
        None,
        1,
        -1,
        2**63,
        1.5,
        float("nan"),
        "a",
        [1],
        (image, 0),
        (image,),
        (image, 0, 0),
        (image, "a"),
        (image, b"\xff"),
        (image, None),
        (image, [1]),
        (image, -1),
        (image, 2**64 - 1),
        (image, 0.5),
        (b"", 0),
        ("x", 0),
        {"a": 1},
    )
    with library.open(str(folder), map_size=2**22) as environment, environment.begin(write=True) as transaction:
        for row, key in enumerate(keys):
            value = random.choice(values) if random.random() < 0.2 else (image, row % 3)
            packed = msgpack.packb(value)
            transaction.put(key, damage(packed, random) if random.random() < 0.05 else packed)
        listed: Any = random.choice(
            (
                keys,
                keys,
                keys,
                [key.decode() for key in keys],
                [0, None],
                b"",
                None,
                5,
                [b""],
                [b"x" * 600],
                {"a": 1},
                [*keys, *keys],
                [b"__len__", b"__keys__"],
                [[b"0"]],
            )
        )
        transaction.put(
            b"__keys__",
            random.choice((msgpack.packb(listed),) * 4 + (b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 5000, b""))
            or b"\xc0",
        )
        transaction.put(b"__len__", msgpack.packb(random.choice((count, count, count, -1, 2**63, "1", None, 1.0, [count]))))


def onnx(random: Random, whole: bool = False) -> bytes:
    """A `whole` model, or one that asks for much, never ends, or gives something else than an embedding."""
    import numpy as np
    from onnx import TensorProto as kinds
    from onnx import helper as make
    from onnx import numpy_helper as numbers

    shape: list[Any] = random.choice(
        (
            ["N", 3, 16, 16],
            ["N", 3, 16, 16],
            [1, 3, 16, 16],
            [4, 3, 16, 16],
            [2**40, 3, 16, 16],
            ["N", 3, 2**20, 2**20],
            ["N", 3, 100_000, 100_000],
            [-1, 3, 16, 16],
            ["N", 3, "h", "w"],
            ["N", 1, 16, 16],
            [],
            ["N", 3, 0, 0],
        )
    )
    size = random.choice((16, 10**6, 2**31, 2**40))
    x, nodes, inits = (
        "x",
        [],
        [
            numbers.from_array(np.array([size, size], np.int64), "big"),
            numbers.from_array(np.array([2**20], np.int64), "many"),
            numbers.from_array(np.ones((768, 8), np.float32), "w"),
        ],
    )
    what = 8 if whole else random.randrange(9)
    if what == 0:
        nodes = [make.make_node("ConstantOfShape", ["big"], ["y"])]
    elif what == 1:
        nodes = [
            make.make_node("Flatten", ["x"], ["f"]),
            make.make_node("MatMul", ["f", "w"], ["e"]),
            make.make_node("Tile", ["e", "big"], ["y"]),
        ]
    elif what == 2:
        body = make.make_graph(
            [make.make_node("Identity", ["c"], ["d"]), make.make_node("Add", ["a", "a"], ["b"])], "body",
            [make.make_tensor_value_info("i", kinds.INT64, []), make.make_tensor_value_info("c", kinds.BOOL, []),
            make.make_tensor_value_info("a", kinds.FLOAT, ["A", "B"])],
            [make.make_tensor_value_info("d", kinds.BOOL, []), make.make_tensor_value_info("b", kinds.FLOAT, ["A", "B"])],
        )  # fmt: skip
        inits += [numbers.from_array(np.array(2**62, np.int64), "trips"), numbers.from_array(np.array(True), "yes")]
        nodes = [make.make_node("Flatten", ["x"], ["f"]), make.make_node("Loop", ["trips", "yes", "f"], ["y"], body=body)]
    elif what == 3:
        for layer in range(40):  # doubles and doubles
            nodes.append(make.make_node("Concat", [x, x], [f"x{layer}"], axis=random.choice((1, 2, -1))))
            x = f"x{layer}"
        nodes.append(make.make_node("Flatten", [x], ["y"]))
    elif what == 4:
        nodes = [make.make_node(random.choice(("Gemm", "Conv", "Reshape", "Upsample", "Nothing", "Gather", "Split")), ["x", "w"], ["y"])]
    elif what == 5:
        nodes = [make.make_node("Flatten", ["y"], ["y"])]
    elif what == 6:
        tensor = numbers.from_array(np.zeros(4, np.float32), "w2")
        tensor.dims[:] = [number(random) % 2**62]
        inits.append(tensor)
        nodes = [make.make_node("Flatten", ["x"], ["f"]), make.make_node("MatMul", ["f", "w2"], ["y"])]
    elif what == 7:
        tensor = numbers.from_array(np.zeros(4, np.float32), "w2")
        tensor.ClearField("raw_data")
        tensor.data_location = kinds.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", random.choice(("../../outside/victim", "/etc/passwd", "x", "/dev/zero"))
        inits.append(tensor)
        nodes = [make.make_node("Flatten", ["x"], ["f"]), make.make_node("MatMul", ["f", "w2"], ["y"])]
    else:
        nodes = [make.make_node("Flatten", ["x"], ["f"]), make.make_node("MatMul", ["f", "w"], ["y"])]
    if whole:
        shape = ["N", 3, 16, 16]
    graph = make.make_graph(
        nodes,
        "g",
        [make.make_tensor_value_info("x", 1 if whole else random.choice((1, 1, 1, 7, 11)), shape)],
        [make.make_tensor_value_info("y", 1, ["M", "D"])],
        inits,
    )
    return make.make_model(
        graph,
        opset_imports=[make.make_opsetid("", 13 if whole else random.choice((13, 17, 1, 99)))],
        ir_version=8 if whole else random.choice((8, 8, 3, 99)),
    ).SerializeToString()


def torch_file(random: Random, weights: dict[str, Any]) -> bytes:
    """Tensors that are not what they seem, and wrappings without an end."""
    import os

    import torch

    warnings.simplefilter("ignore")
    name = random.choice(list(weights))
    plain = weights[name].float()
    odd = [
        lambda: torch.zeros(1).expand(2**20, 2**20), lambda: plain.to_sparse(), lambda: torch.empty(2**40, device="meta"),
        lambda: torch.empty(plain.shape, device="meta"),
        lambda: torch.zeros(1).expand(plain.shape), lambda: torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
        lambda: plain.to(torch.complex64), lambda: plain.bool(), lambda: plain * float("nan"),
        lambda: plain.half(), lambda: plain.to(torch.float8_e4m3fn), lambda: torch.zeros(0), lambda: torch.tensor(1.0),
        lambda: torch.nn.Parameter(plain), lambda: None, lambda: "x", lambda: [plain], lambda: {"a": plain},
        lambda: torch.sparse_coo_tensor(torch.zeros((1, 0), dtype=torch.int64), torch.zeros(0), (2**40,)),
        lambda: torch.nested.nested_tensor([plain.flatten()[:1], plain.flatten()[:2]]),
        lambda: torch.empty(plain.shape).to_sparse_csr() if plain.dim() == 2 else plain,
        lambda: plain.as_strided(plain.shape, [0] * plain.dim()), lambda: Hostile(os.system, "gs"), lambda: torch.device("cuda"),
        lambda: plain.to_mkldnn(),
    ]  # fmt: skip
    thing: Any = dict(weights)
    try:
        thing[name] = random.choice(odd)()
    except (RuntimeError, ValueError):
        thing.pop(name)
    loop: dict[str, Any] = {}
    loop["model"] = loop
    thing = random.choice(
        (
            thing,
            thing,
            thing,
            {"state_dict": thing},
            {"model": loop},
            [thing],
            {"state_dict": None, 3: thing},
            {name: 1},
            {},
            list(weights.values()),
            {b"x": 1, None: plain, ("a",): 2},
            {"model": {"net": {"ema": thing}}},
        )
    )
    out = io.BytesIO()
    try:
        torch.save(thing, out, _use_new_zipfile_serialization=random.random() < 0.7)
    except Exception:
        return b"PK\x03\x04"
    data = out.getvalue()
    if data[:2] == b"PK" and random.random() < 0.3:  # deflated, with zeros without an end
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as new:
            for entry in old.namelist():
                zeros = "/data/0" in entry and random.random() < 0.5
                new.writestr(entry, bytes(300_000_000) if zeros else old.read(entry))
        return out.getvalue()
    return damage(data, random) if random.random() < 0.3 else data


def npz(data: bytes, random: Random) -> bytes:
    """Arrays of other shapes and kinds; headers that lie."""
    import numpy as np

    with np.load(io.BytesIO(data)) as table:
        arrays: dict[str, Any] = dict(table)
    numbers = [name for name, values in arrays.items() if values.ndim and values.dtype.kind in "biuf"]
    name, what = random.choice(numbers or list(arrays)), random.randrange(9)
    value = arrays[name]
    if what == 8:
        header = (
            b"\x93NUMPY\x01\0"
            + struct.pack("<H", 118)
            + (b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }" % number(random)).ljust(117)
            + b"\n"
        )
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr(f"{name}.npy", header + bytes(16))
        return out.getvalue()
    arrays[name] = [
        value[:-1],
        value[:, None],
        value.astype(str),
        np.array([None] * max(1, len(value)), object),
        value[:0],
        value.astype(float) * np.nan,
        np.full_like(value, -1),
        -value.astype(np.int64) * 2**40,
    ][what]
    if random.random() < 0.2:
        del arrays[name]
    np.savez(out := io.BytesIO(), **arrays)
    return out.getvalue()


def anything(random: Random) -> bytes:
    return random.choice(MAGICS) + random.randbytes(random.choice((0, 10, 1000)))
