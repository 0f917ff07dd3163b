"""Damage: bytes, text, JSON and things in the place of files, changed at random. Same random stream, same damage."""

from __future__ import annotations

import copy
import json
import os
import re
import socket
import struct
from pathlib import Path
from random import Random
from typing import Any

MAGICS = (
    b"", b"\0", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"PK\x03\x04", b"PAR1",
    b"\x80\x04\x95", b"\x80\x02cos\nsystem\n(S'gs'\ntR.", b"GIF89a", b"II*\0", b"MM\0*", b"RIFF\xff\xff\xff\x7fWEBP", b"\xfd7zXZ\0",
    b"\x1f\x8b\x08",
    b"\x93NUMPY", b"version https://git-lfs.github.com/spec/v1\n", b"<!doctype html>", b"P6 9999999 9999999 255\n", b"SQLite format 3\0",
    b"\xef\xbb\xbf", b"\xff\xfe", b"%PDF-1.4", b"#!/bin/sh\ngs\n", b"{", b"[", b"---\n", b"\x0a\xd7\x23\xce", b"\xde\xc0\xef\xbe",
    b"ARROW1\0\0",
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 4095, 4096, 32767, 32768, 65535, 65536, 2**24, 2**29 - 1, 2**31 - 1, 2**31, 2**32 - 1,
           2**40, 2**48, 2**62, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
TEXTS = (
    "", "0", "-1", "-0", "1e999", "nan", "inf", "NaN", "-inf", "9" * 25, "9" * 5000, "1" + "0" * 400, "1.5", "0x10", "1_000", "²", "٣",
    "true", "null",
    "None", "..", "../..", "../../outside/victim", "../outside/new", "/", "~", "~root", "C:\\x", "\\\\host\\x", "//x", ".", "a/../b",
    "con", "nul.png",
    "\0", "a\0b", "\ud800", "Jos\u00e9", "Jose\u0301", "\u202e", "\U0001f600", "\ufeff", "a\nb", "a\rb", "a\tb", "a,b", 'a"b', "'", "`gs`",
    "$(gs)",
    "; gs", "| gs", "-", "--help", "%s%s%n", "{0}", "{x}", "[bold]x[/bold]", "[/]", "\x1b[2J", "x" * 300, "x" * 100_000, "1:30",
    "2020-13-45",
    "!!python/object/apply:os.system ['gs']", "!!bool x", "&a [*a]", "*a", "<<", "[" * 3000, "{a: " * 500, "file:///etc/passwd", "@x",
    "1,2", "0.5.5",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400, float("nan"), float("inf"),
    float("-inf"), [], {}, [[]], [{}],
    {"": ""}, [None], [0], [1, 2], ["a", "b"], {"a": 1}, {"key": {}}, [[[[1]]]], "x", *TEXTS[:50],
)  # fmt: skip


def number(random: Random) -> int:
    return random.choice(NUMBERS) if random.random() < 0.8 else random.getrandbits(random.choice((8, 16, 32, 64)))


def text(random: Random, cage: Path | None = None) -> str:
    """A word that hurts; with `cage` sometimes the path of something outside the case."""
    if cage and random.random() < 0.1:
        return str(cage / "outside" / random.choice(("victim", "new", "deep", "deep/victim")))
    return random.choice(TEXTS)


def damage(data: bytes, random: Random) -> bytes:
    """One to three changes of any bytes."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = random.choice(BYTES)(data, random)
    return data


def _place(data: bytes, random: Random) -> int:
    """Any place, those at both ends more often: that is where headers and tables are."""
    near = random.random()
    reach = min(len(data), 256)
    return (
        random.randrange(reach or 1)
        if near < 0.35
        else max(0, len(data) - 1 - random.randrange(reach or 1))
        if near < 0.6
        else random.randrange(len(data) or 1)
    )


def _flip(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        if out:
            out[_place(data, random)] ^= 1 << random.randrange(8)
    return bytes(out)


def _field(data: bytes, random: Random) -> bytes:
    """A number of one to eight bytes becomes an extreme one."""
    size, at = random.choice((1, 2, 4, 4, 8)), _place(data, random)
    at = at // size * size if random.random() < 0.5 else at
    value = (number(random) + random.choice((0, 0, 0, len(data)))) % 256**size
    return data[:at] + value.to_bytes(size, random.choice(("little", "big"))) + data[at + size :]


def _cut(data: bytes, random: Random) -> bytes:
    page = random.choice((1, 1, 1, 512, 4096))
    return (
        data[: random.randrange(len(data) + 1) // page * page]
        if random.random() < 0.9
        else data[: random.choice((0, 1, 4, 8, 12, -1, -4, -8))]
    )


def _insert(data: bytes, random: Random) -> bytes:
    at, size = _place(data, random), random.choice((1, 2, 4, 8, 16, 100, 5000))
    start = random.randrange(len(data) + 1)
    new = random.choice((random.randbytes(size), bytes(size), b"\xff" * size, data[start : start + size]))
    return data[:at] + new + data[at:]


def _repeat(data: bytes, random: Random) -> bytes:
    at, size = _place(data, random), random.choice((1, 4, 16, 64, 256, 4096))
    return data[:at] + data[at : at + size] * random.choice((2, 2, 3, 100, 1000) if size < 300 else (2, 3)) + data[at:]


def _delete(data: bytes, random: Random) -> bytes:
    at, size = _place(data, random), random.choice((1, 2, 4, 8, 16, 100, 512))
    return data[:at] + data[at + size :]


def _swap(data: bytes, random: Random) -> bytes:
    a, b, size = (
        sorted((random.randrange(len(data) + 1), random.randrange(len(data) + 1)))[0],
        _place(data, random),
        random.choice((4, 16, 512)),
    )
    out = bytearray(data)
    out[a : a + size], out[b : b + size] = data[b : b + size], data[a : a + size]
    return bytes(out)


def _fill(data: bytes, random: Random) -> bytes:
    at, size = _place(data, random), random.choice((4, 16, 64, 512, 4096))
    size = min(size, len(data) - at)
    return data[:at] + random.choice((b"\0", b"\xff", b"0", b" ")) * size + data[at + size :]


def _magic(data: bytes, random: Random) -> bytes:
    magic = random.choice(MAGICS)
    return magic + data[len(magic) if random.random() < 0.6 else 0 :] if random.random() < 0.8 else magic


def _digits(data: bytes, random: Random) -> bytes:
    """A number written as text becomes another."""
    found = list(re.finditer(rb"-?[0-9]+(?:\.[0-9]+)?", data[:200_000]))
    if not found:
        return _field(data, random)
    chosen = random.choice(found)
    return data[: chosen.start()] + text(random).encode("utf-8", "surrogatepass") + data[chosen.end() :]


BYTES = (_flip, _flip, _field, _field, _field, _cut, _insert, _repeat, _delete, _swap, _fill, _magic, _digits)

# ------------------------------------------------------------------------------------------------------------------ text


def lines(data: bytes, random: Random, cage: Path | None = None) -> bytes:
    """A list or YAML: fields, lines and encodings changed."""
    if random.random() < 0.25:
        return damage(data, random)
    rows = data.decode("utf-8", "replace").split("\n")
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(rows))
        parts = re.split(r"([\s,:=;]+)", rows[at])
        what = random.randrange(9)
        if what < 4:
            parts[random.randrange((len(parts) + 1) // 2) * 2] = text(random, cage)
            rows[at] = "".join(parts)
        elif what == 4:
            rows[at] = "".join(parts[: random.randrange(len(parts)) + 1])
        elif what == 5:
            rows[at] += random.choice((" ", "\t", ",", ": ")) + text(random, cage)
        elif what == 6:
            rows.insert(at, random.choice((rows[at], "", "#", text(random, cage), rows[random.randrange(len(rows))])))
        elif what == 7:
            del rows[at]
            rows = rows or [""]
        else:
            rows[at] = random.choice((" ", "  ", "\t", "- ", "'", '"', "? ", "! ", "| ", "> ", "%")) + rows[at]
    joined = random.choice(("\n", "\n", "\n", "\r\n", "\r", "\u2028")).join(rows)
    encoding = random.choice(("utf-8",) * 6 + ("utf-16", "latin-1", "utf-8-sig", "utf-32"))
    return joined.encode(encoding, "surrogatepass" if encoding != "latin-1" else "replace")


# ------------------------------------------------------------------------------------------------------------------ JSON


def json_text(data: bytes, random: Random, cage: Path | None = None) -> bytes:
    """JSON, or lines of it, with another value, another name, or none, somewhere in it."""
    if random.random() < 0.2:
        return damage(data, random)
    try:
        whole = data.decode()
        rows = whole.splitlines() if whole.count("\n{") > 1 and whole.startswith("{") else [whole]
        at = random.randrange(len(rows))
        tree = [json.loads(rows[at])]
    except ValueError:
        return damage(data, random)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        _change(tree, random, cage)
    out = json.dumps(tree[0]) if tree else ""
    if random.random() < 0.08:
        out = random.choice(
            ('{"a":' * 20_000, "[" * 100_000, out[:-1] + "," + out[1:], out + out, "\ufeff" + out, out.replace(":", ":" + "[" * 600, 1))
        )
    rows[at] = out
    return "\n".join(rows).encode("utf-8", "surrogatepass")


def _change(tree: list[Any], random: Random, cage: Path | None) -> None:
    places = list(_places(tree, 0))
    if not places:
        return
    holder, key = random.choice(places)
    what = random.randrange(10)
    if what < 6:
        holder[key] = text(random, cage) if random.random() < 0.3 else random.choice(VALUES)
    elif what == 6:
        del holder[key]
    elif what == 7 and isinstance(holder, dict):
        holder[text(random, cage)] = holder.pop(key)
    elif what == 7:
        holder.insert(key, random.choice(VALUES))
    else:
        other, place = random.choice(places)
        holder[key] = copy.deepcopy(other[place])


def _places(holder: Any, depth: int) -> Any:
    for key, value in list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder)):
        yield holder, key
        if isinstance(value, (dict, list)) and depth < 12:
            yield from _places(value, depth + 1)


# ------------------------------------------------------------------------------------------------ things in a file's place


def replace(path: Path, random: Random, cage: Path) -> None:
    """Something else under the name of a file: a folder, a link, a pipe, nothing."""
    path.unlink(missing_ok=True)
    what = random.randrange(11)
    if what == 0:
        path.mkdir()
    elif what == 1:
        path.mkdir()
        (path / "inner").write_bytes(b"x")
    elif what in (2, 3):
        path.symlink_to(
            random.choice((cage / "outside" / "victim", cage / "outside", path.parent, path, Path("nowhere"), Path("/dev/zero")))
        )
    elif what == 4:
        os.mkfifo(path)
    elif what == 5:
        with socket.socket(socket.AF_UNIX) as one:
            here = os.getcwd()
            os.chdir(path.parent)  # a socket's name is short
            one.bind(path.name[:90])
            os.chdir(here)
    elif what == 6:
        path.write_bytes(b"")
    elif what == 7:
        with open(path, "wb") as file:
            file.truncate(random.choice((2**20, 2**33, 2**40)))  # takes no room on the disk
    elif what == 8:
        path.write_bytes(random.choice(MAGICS) + random.randbytes(100))
    elif what == 9:
        path.write_bytes(struct.pack("<QQ", number(random), number(random)) * 10)


def odd_name(folder: Path, random: Random) -> None:
    """A file or folder with a name that hurts, beside the others."""
    names = [
        b"Jos\xe9",
        b"\xff\xfe",
        b"a\nb",
        b"x" * 250,
        b" ",
        b"-",
        b"con",
        b"a\\b",
        b"\xc3\x28",
        "e\u0301".encode(),
        "\u00e9".encode(),
        b"...",
        b"%s",
        b"[x]",
        b"$(gs)",
    ]
    name, ending = random.choice(names), random.choice((b"", b".png", b".PNG", b".jpg", b".tmp", b".json", b".rec", b".parquet", b".tar"))
    place = os.path.join(os.fsencode(folder), name[: 250 - len(ending)] + ending)
    if os.path.exists(place):
        return
    if random.random() < 0.4:
        os.mkdir(place)
        if random.random() < 0.5:
            os.symlink(b"..", place + b"/loop")
    else:
        with open(place, "wb") as file:
            file.write(random.choice(MAGICS))
