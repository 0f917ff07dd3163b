"""Verification pairs: what a .bin may hold, what it may not make us do, and LFW's list."""

from __future__ import annotations

import io
import lzma
import os
import pickle
import pickletools
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synthbench.data import pixels, sources
from synthbench.data.pairlists import parse_pair_list
from synthbench.data.pairs import PairSet, open_pairs, read_bin, read_pair_list, require_usable, save_pairs
from synthbench.types import UserError

DATA = Path(os.environ.get("SYNTHBENCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def png(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(seed)).save(out, "PNG")
    return out.getvalue()


IMAGES = [png(0), png(1), png(0), png(2)]  # the first image is used twice
SAME = [True, False]


def python2(images: list[bytes], same: list[bool]) -> bytes:
    """What cPickle of Python 2 writes with protocol 2: byte strings as BINSTRING, which Python 3 has no way to write."""
    strings = b"".join(b"T" + struct.pack("<i", len(data)) + data for data in images)
    truths = b"".join(b"\x88" if value else b"\x89" for value in same)
    return b"\x80\x02](" + strings + b"e](" + truths + b"e\x86."


def variants() -> dict[str, bytes]:
    arrays = [np.frombuffer(data, np.uint8) for data in IMAGES]
    found = {f"bytes protocol {p}": pickle.dumps((IMAGES, SAME), p) for p in (0, 2, 3, 4, 5)}
    found |= {f"arrays protocol {p}": pickle.dumps((arrays, np.array(SAME).tolist()), p) for p in (2, 4, 5)}
    found["numpy truths"] = pickle.dumps((IMAGES, [np.bool_(value) for value in SAME]), 4)
    for p in (2, 4, 5):
        truths = {kind: np.array(SAME, kind) for kind in ("?", "u1", "<i8", ">i4", "O")}
        found |= {f"{kind} of truths, protocol {p}": pickle.dumps((IMAGES, same), p) for kind, same in truths.items()}
        found[f"array of image files, protocol {p}"] = pickle.dumps((np.array([*arrays, None], object)[:-1], np.array(SAME)), p)
        found[f"pixels, protocol {p}"] = pickle.dumps(([picture(seed) for seed in (0, 1, 0, 2)], np.array(SAME)), p)
        found[f"an array of pixels, protocol {p}"] = pickle.dumps((np.stack([picture(seed) for seed in (0, 1, 0, 2)]), SAME), p)
    found["old numpy"] = pickle.dumps((arrays, SAME), 2).replace(b"numpy._core", b"numpy.core")
    found["lists, 0 and 1"] = pickle.dumps([IMAGES, [1, 0]])
    found["python 2"] = python2(IMAGES, SAME)
    return found


@pytest.mark.parametrize("name", list(variants()))
@pytest.mark.parametrize("ending", [".bin", ".bin.xz"])
def test_every_bin(tmp_path: Path, name: str, ending: str) -> None:
    data = variants()[name]
    path = tmp_path / f"lfw{ending}"
    path.write_bytes(lzma.compress(data) if ending.endswith("xz") else data)
    pairs = read_bin(path, 8)
    assert (pairs.name, len(pairs), pairs.same.tolist()) == ("lfw", 2, SAME)
    assert len(pairs.images) == 3 and (pairs.images.identity == -1).all()
    for side, rows in ((0, pairs.left), (1, pairs.right)):
        for i, row in enumerate(rows):
            assert np.array_equal(pairs.images.images([row])[0].permute(1, 2, 0), picture((0, 1, 0, 2)[2 * i + side]))


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def opcodes(path: Path) -> dict[str, bytes]:
    """Pickles that would make a folder, or upset numpy, with an unpickler that lets them."""
    target = str(path).encode()
    return {
        "reduce": pickle.dumps(([Payload(path)], [True])),
        "reduce protocol 0": b"cos\nmkdir\n(S'" + target + b"'\ntR.",
        "python 2 name": b"cposix\nmkdir\n(S'" + target + b"'\ntR.",
        "eval": b'c__builtin__\neval\n(S\'__import__("os").mkdir("' + target + b"\")'\ntR.",
        "inst": b"(S'" + target + b"'\nios\nmkdir\n.",
        "getattr": b"c__builtin__\ngetattr\n(cnumpy\nndarray\nS'tofile'\ntR.",
        "numpy loads": b"cnumpy\nload\n(S'" + target + b"'\ntR.",
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.__new__\x93.",
        "raw pointers": pickle.dumps((np.array([object], dtype=object),)),
        "persistent": b"Pabc\n.",
        "extension": b"\x80\x02\x82\x01.",
        "memo bomb": b"\x80\x04]r\xff\xff\xff\x7f.",
    }


@pytest.mark.parametrize("name", list(opcodes(Path("x"))))
def test_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, name: str) -> None:
    target = tmp_path / "made"
    path = tmp_path / "evil.bin"
    path.write_bytes(opcodes(target)[name])
    with pytest.raises(UserError, match=r"evil\.bin: .*Nothing in it was executed"):
        read_bin(path, 8)
    assert not target.exists()


def test_the_payload_would_work_elsewhere(tmp_path: Path) -> None:
    pickle.loads(opcodes(tmp_path / "made")["reduce"])
    assert (tmp_path / "made").exists()


def test_a_file_cannot_change_how_the_next_is_read(tmp_path: Path) -> None:
    code = b"\x80\x02cnumpy\nndarray\nN}X\x03\x00\x00\x00raw\x8c\x03badsX\x0c\x00\x00\x00__setstate__Ns\x86b."
    pickletools.dis(code, io.StringIO())  # well formed
    (tmp_path / "evil.bin").write_bytes(code)
    with pytest.raises(UserError):
        read_bin(tmp_path / "evil.bin", 8)
    (tmp_path / "good.bin").write_bytes(variants()["arrays protocol 2"])
    assert len(read_bin(tmp_path / "good.bin", 8)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps((IMAGES[:3], SAME)), "3 images for 2 pairs"),
        (pickle.dumps((IMAGES, SAME))[:-50], "not a benchmark"),
        (pickle.dumps(([], [])), "no pairs"),
        (pickle.dumps({"a": 1}), "not a benchmark"),
        (pickle.dumps((IMAGES, [True, 7])), "same or not is 7"),
        (pickle.dumps(([1, 2, 3, 4], SAME)), "an image is a int"),
        (pickle.dumps(([*IMAGES[:3], b"no image"], SAME)), "image 3: the image cannot be decoded"),
        (pickle.dumps(([np.zeros(3), *IMAGES[1:]], SAME)), "neither of bytes"),
        (b"", "not a benchmark"),
    ],
)
def test_damaged_bin(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_bin(tmp_path / "x.bin", 8)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    for name, count in (("Ann_Lee", 3), ("Bo", 2)):
        for i in range(1, count + 1):
            path = tmp_path / "lfw" / name / f"{name}_{i:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(10 * len(name) + i))
    return tmp_path / "lfw"


LIST = "Ann_Lee\t1\t3\nBo\t1\t2\nAnn_Lee\t2\tBo\t1\nAnn_Lee\t1\tBo\t2\n"


@pytest.mark.parametrize("header", ["", "2\t1\n", "2\n", "# a note\n\n"])
def test_lfw_list(people: Path, tmp_path: Path, header: str) -> None:
    (tmp_path / "pairs.txt").write_text(header + LIST)
    with zipfile.ZipFile(tmp_path / "lfw.zip", "w") as archive:
        for file in people.rglob("*.png"):
            archive.write(file, "top/" + file.relative_to(people).as_posix())
    plain, zipped = (read_pair_list(tmp_path / "pairs.txt", images, 8) for images in (people, tmp_path / "lfw.zip"))
    assert plain.digest == zipped.digest and plain.source_digest != zipped.source_digest
    assert plain.same.tolist() == [True, True, False, False]
    assert len(plain.images) == 5
    assert np.array_equal(plain.images.images(plain.right[[2]])[0].permute(1, 2, 0), picture(21))


def test_rfw_as_it_is_distributed(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """txts/African/African_pairs.txt, tabs and no header, over data/African/m.01/m.01_0001.jpg; MIDs may hold a _ of their own."""
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))
    for name, count in (("m.0_1x", 3), ("m.02", 2)):
        (tmp_path / "data" / "African" / name).mkdir(parents=True)
        for i in range(1, count + 1):
            (tmp_path / "data" / "African" / name / f"{name}_{i:04d}.jpg").write_bytes(pixels.encode(picture(10 * len(name) + i), "jpg"))
    lines = "m.0_1x\t1\t3\nm.02\t1\t2\nm.0_1x\t2\tm.02\t1\nm.0_1x\t1\tm.02\t2\n"
    (tmp_path / "African_pairs.txt").write_text(1500 * lines)
    added = sources.add("rfw-african", tmp_path / "data" / "African", pairs=tmp_path / "African_pairs.txt")
    assert (added.kind, added.pairs, added.images, added.title) == ("pairs", 6000, 5, "RFW, African")
    assert require_usable(read_pair_list(tmp_path / "African_pairs.txt", added.path, 8)).same.tolist() == 1500 * [True, True, False, False]


@pytest.mark.parametrize(
    "lines",
    [
        "img1,img2,label\n{0}.png,{1}.png,1\n{0}.png,{2}.png,0\n",  # ND-Twins style: a CSV of two images, twins are impostors
        "{0}.png {1}.png 1\n{0}.png {2}.png -1\n",
        "1\t{0}\t{1}\n0\t{0}\t{2}\n",
    ],
)
def test_lists_of_look_alikes_are_pair_lists(people: Path, tmp_path: Path, lines: str) -> None:
    names = ("Ann_Lee/Ann_Lee_0001", "Ann_Lee/Ann_Lee_0002", "Bo/Bo_0001")
    (tmp_path / "twins.csv").write_text(lines.format(*names))
    pairs = read_pair_list(tmp_path / "twins.csv", people, 8)
    assert pairs.same.tolist() == [True, False]
    assert np.array_equal(pairs.images.images(pairs.right)[1].permute(1, 2, 0), picture(21))
    with pytest.raises(UserError, match="are impostors; check its labels"):  # look-alikes alone have no accuracy
        require_usable(replace(pairs, left=np.zeros(20, np.int64), right=np.ones(20, np.int64), same=np.zeros(20, bool)))


def test_list_of_paths(people: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("Ann_Lee/Ann_Lee_0001.png Ann_Lee/Ann_Lee_0002.png 1\nAnn_Lee/Ann_Lee_0001.png Bo/Bo_0001.png 0\n")
    assert read_pair_list(tmp_path / "list.txt", people, 8).same.tolist() == [True, False]


A, B = "Ann_Lee/Ann_Lee_", "Bo/Bo_"
PATHS = ((f"{A}0001", f"{A}0003"), (f"{B}0001", f"{B}0002"), (f"{A}0002", f"{B}0001"), (f"{A}0001", f"{B}0002"))  # of LIST
TRUE = (1, 1, 0, 0)
FORMS = {
    "BOM, CRLF": b"\xef\xbb\xbf" + LIST.replace("\n", "\r\n").encode(),
    "padded": LIST.replace("\t1", "\t0001").encode(),
    "endings": "".join(f"{a}.png {b}.png {t}\n" for (a, b), t in zip(PATHS, TRUE)).encode(),
    "no endings": "".join(f"{a} {b} {t}\n" for (a, b), t in zip(PATHS, TRUE)).encode(),
    "no folders": "".join(f"{a.split('/')[1]} {b.split('/')[1]}.png {t}\n" for (a, b), t in zip(PATHS, TRUE)).encode(),
    "label first, -1": "".join(f"{2 * t - 1}\t{a}.png\t{b}.png\n" for (a, b), t in zip(PATHS, TRUE)).encode(),
    "CSV, True": ("left,right,same\n" + "".join(f"{a}.png,{b}.png,{bool(t)}\n" for (a, b), t in zip(PATHS, TRUE))).encode(),
    "Kaggle": b"name,imagenum1,imagenum2,\nAnn_Lee,1,3,\nBo,1,2,\nAnn_Lee,2,Bo,1\nAnn_Lee,1,Bo,2\n",
    "names of files": b"Ann_Lee Ann_Lee_0001.png Ann_Lee_0003.png\nBo Bo_0001.png Bo_0002.png\nAnn_Lee Ann_Lee_0002.png Bo Bo_0001.png\n"
    b"Ann_Lee Ann_Lee_0001.png Bo Bo_0002.png\n",
    "a line an image": "".join(f"{a}.png {t}\n{b}.png {t}\n" for (a, b), t in zip(PATHS, TRUE)).encode(),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_of_a_list_says_the_same(people: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "pairs.txt").write_text(LIST)
    (tmp_path / "other.txt").write_bytes(FORMS[form])
    expected, found = (read_pair_list(tmp_path / name, people, 8) for name in ("pairs.txt", "other.txt"))
    assert found.digest == expected.digest and found.same.tolist() == [bool(truth) for truth in TRUE]


def test_names_of_other_alphabets_and_numbers_without_zeros(tmp_path: Path) -> None:
    for name, number in (("Zoë", 1), ("Zoë", 2), ("Bo", 1), ("Bo", 2)):
        (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name / f"{name}_{number}.png").write_bytes(png(len(name) * 10 + number))
    (tmp_path / "pairs.txt").write_bytes("Zoë\t1\t2\nZoë\t1\tBo\t2\n".encode("latin-1"))
    pairs = read_pair_list(tmp_path / "pairs.txt", tmp_path / "set", 8)
    assert np.array_equal(pairs.images.images(pairs.right)[1].permute(1, 2, 0), picture(22))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png b.png 1\nc.png d.png 0\ne.png f.png -1\n", "0 and -1"),
        ("Bo/Bo_0001.png 1\nBo/Bo_0002.png 0\n", "line 1: this line and the next are a pair"),
        ("Bo/Bo_0001.png 1\nBo/Bo_0002.png 1\nBo/Bo_0002.png 1\n", "3 lines .* one is missing"),
        ("Bo/Bo_0001.png Bo/Bo_0002.png 0.7\n", "line 1"),
        ("000001 000002 1\n", "line 1: no image 000001/000001_0002"),
        ("2\t1\n" + LIST + "Bo\t1\t1\n", "header promises 4 pairs, the file has 5"),
        (LIST + "Bo\tone\t2\n", r"pairs\.txt, line 5: 'Bo\\tone"),
        (LIST + "Bo\t1\n", r"line 5"),
        ("4\t1\n" + LIST.replace("Bo\t2", "Bo\t7"), "header promises 8"),
        (LIST.replace("Bo\t2\n", "Bo\t7\n"), r"pairs\.txt, line 4: no image Bo/Bo_0007"),
        ("10\t300\n", "no pairs"),
        ("²\n" + LIST, "line 1"),  # a digit to Python, but no number
    ],
)
def test_bad_lists_name_the_line(people: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_pair_list(tmp_path / "pairs.txt", people, 8)


def test_kept_and_opened(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(pickle.dumps((IMAGES, SAME)))
    pairs = read_bin(tmp_path / "x.bin", 8, title="The set")
    save_pairs(pairs, tmp_path / "kept")
    again = open_pairs(tmp_path / "kept")
    assert (again.name, again.title, again.digest, again.source_digest) == ("x", "The set", pairs.digest, pairs.source_digest)
    assert torch.equal(again.images.images(again.left), pairs.images.images(pairs.left))
    assert again.right.tolist() == pairs.right.tolist() and again.same.tolist() == SAME
    with pytest.raises(UserError, match="no whole benchmark here"):
        open_pairs(tmp_path)


def grouped(group: list[int], groups: tuple[str, ...]) -> PairSet:
    images = np.stack([picture(i) for i in range(3)])
    return PairSet.from_arrays("a", images, [0, 0], [1, 2], SAME, group=np.array(group), groups=groups)


def test_groups_are_kept_and_are_part_of_the_digest(tmp_path: Path) -> None:
    pairs = grouped([1, 0], ("old", "young"))
    save_pairs(pairs, tmp_path / "kept")
    again = open_pairs(tmp_path / "kept")
    assert (again.groups, again.group.tolist(), again.digest) == (("old", "young"), [1, 0], pairs.digest)
    plain = PairSet.from_arrays("a", pairs.images.images(slice(None)), [0, 0], [1, 2], SAME)
    others = [grouped([0, 1], ("old", "young")), grouped([1, 0], ("old", "new")), plain]
    assert len({pairs.digest, *(other.digest for other in others)}) == 4 and others[-1].groups == ()


WRONG = ({"group": np.array([0, 2])}, {"group": np.array([0])}, {"group": np.array([0.5, 1.0])}, {"groups": (1, 2)})


@pytest.mark.parametrize("wrong", WRONG)
def test_groups_that_are_not_those_of_the_pairs_are_no_whole_benchmark(tmp_path: Path, wrong: dict) -> None:
    save_pairs(replace(grouped([1, 0], ("old", "young")), **wrong), tmp_path / "kept")
    with pytest.raises(UserError, match="no whole benchmark here"):
        open_pairs(tmp_path / "kept")


def test_a_list_may_tell_the_group_of_each_pair(people: Path, tmp_path: Path) -> None:
    lines = [f"{a}.png,{b}.png,{truth}" for (a, b), truth in zip(PATHS, TRUE)]
    (tmp_path / "plain.csv").write_text("\n".join(lines))
    (tmp_path / "groups.csv").write_text("left,right,same,group\n" + "\n".join(f"{line},{g}" for line, g in zip(lines, "baab")))
    plain, pairs = (read_pair_list(tmp_path / name, people, 8) for name in ("plain.csv", "groups.csv"))
    assert (pairs.groups, pairs.group.tolist()) == (("b", "a"), [0, 1, 1, 0]) and not plain.groups
    assert (
        pairs.images.digest == plain.images.digest
        and pairs.same.tolist() == plain.same.tolist()
        and pairs.left.tolist() == plain.left.tolist()
    )
    for third, message in ((lines[2], "line 1: .* on every line"), (f"{lines[2]},a b/c", "line 3: the group of people")):
        (tmp_path / "bad.csv").write_text("\n".join([*(f"{line},a" for line in lines[:2]), third, f"{lines[3]},a"]))
        with pytest.raises(UserError, match=message):
            read_pair_list(tmp_path / "bad.csv", people, 8)
    (tmp_path / "bad.csv").write_text(f"{lines[0]},a\n{lines[2][:-1]}0,a\n{lines[3][:-1]}-1,b")
    with pytest.raises(UserError, match="truths 0 and -1"):
        read_pair_list(tmp_path / "bad.csv", people, 8)


def test_digest_is_of_pixels_and_pairs() -> None:
    images = np.stack([picture(i) for i in range(3)])
    pairs = PairSet.from_arrays("a", images, [0, 0], [1, 2], SAME)
    assert pairs.digest == PairSet.from_arrays("b", images, [0, 0], [1, 2], SAME).digest
    assert pairs.digest != PairSet.from_arrays("a", images, [0, 0], [2, 1], SAME).digest
    assert pairs.digest != PairSet.from_arrays("a", images, [0, 0], [1, 2], [True, True]).digest
    assert pairs.digest != PairSet.from_arrays("a", images[::-1], [0, 0], [1, 2], SAME).digest


def test_pairs_on_which_accuracy_is_not_defined_are_refused_before_anything_is_trained() -> None:
    images = np.stack([picture(i) for i in range(3)])
    few, one_kind, enough = ([i % 2 == 0 for i in range(9)], [True] * 20, [i % 2 == 0 for i in range(10)])
    made = [PairSet.from_arrays("mine", images, [0] * len(same), [1] * len(same), same) for same in (few, one_kind, enough)]
    with pytest.raises(UserError, match="benchmark mine has 9 pairs; it needs 10 or more"):
        require_usable(made[0])
    with pytest.raises(UserError, match="all 20 pairs of benchmark mine are genuine"):
        require_usable(made[1])
    assert require_usable(made[2]) is made[2]


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is absent")
def test_the_official_list() -> None:
    lines = parse_pair_list(DATA / "lfw_pairs.txt")
    same = np.array([line.same for line in lines])
    assert len(lines) == 6000 and (same.reshape(10, 2, 300) == np.array([True, False])[None, :, None]).all()
    with zipfile.ZipFile(DATA / "lfw_112.zip") as archive:
        names = set(archive.namelist())
    used = {f"{image}.jpg" for line in lines for image in (line.left, line.right)}
    assert used <= names and len(used) == 7701


# ---- a .bin is made ----


def by_insightface(path: Path) -> list[tuple[bytes, bytes, bool]]:
    """As load_bin of eval/verification.py has it: pair i is images 2i and 2i + 1."""
    with open(path, "rb") as file:
        bins, issame = pickle.load(file, encoding="bytes")
    assert all(type(same) is bool for same in issame) and len(bins) == 2 * len(issame)
    return [(bins[2 * i], bins[2 * i + 1], same) for i, same in enumerate(issame)]


def command(*arguments: str) -> None:
    from synthbench.cli.data import data_group

    data_group.main(["convert", *arguments], standalone_mode=False)


def test_a_list_with_images_becomes_a_bin(people: Path, tmp_path: Path) -> None:
    jpeg = pixels.encode(picture(5), "jpg")
    (people / "Bo" / "Bo_0001.png").write_bytes(jpeg)  # endings lie
    webp = io.BytesIO()
    Image.fromarray(picture(6)).save(webp, "WEBP", lossless=True)
    (people / "Ann_Lee" / "Ann_Lee_0003.png").write_bytes(webp.getvalue())
    (tmp_path / "pairs.txt").write_text(LIST)
    command(str(people), "--pairs", str(tmp_path / "pairs.txt"), "--to", "bin", "-o", str(tmp_path / "out.bin"))
    found = by_insightface(tmp_path / "out.bin")
    names = [("Ann_Lee_0001", "Ann_Lee_0003"), ("Bo_0001", "Bo_0002"), ("Ann_Lee_0002", "Bo_0001"), ("Ann_Lee_0001", "Bo_0002")]
    assert [same for *_, same in found] == [True, True, False, False]
    for (left, right, _), pair in zip(found, names):
        for data, name in zip((left, right), pair):
            file = people / name[:-5] / f"{name}.png"
            if name == "Ann_Lee_0003":
                assert data.startswith(b"\x89PNG") and np.array_equal(np.array(Image.open(io.BytesIO(data))), picture(6))
            else:
                assert data == file.read_bytes()
    assert found[1][0] == jpeg
    before, after = read_pair_list(tmp_path / "pairs.txt", people, 8), read_bin(tmp_path / "out.bin", 8)
    for side in ("left", "right"):
        one, two = (pairs.images.images(getattr(pairs, side)) for pairs in (before, after))
        assert torch.equal(one, two)
    assert before.same.tolist() == after.same.tolist()


def test_registered_benchmarks_and_bins_of_pixels_become_bins(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))
    (tmp_path / "pairs.txt").write_text(LIST)
    sources.add("mine", people, "pairs", pairs=tmp_path / "pairs.txt")
    command("mine", "--to", "bin", "-o", str(tmp_path / "deep" / "mine.bin"))
    assert len(by_insightface(tmp_path / "deep" / "mine.bin")) == 4
    (tmp_path / "pixels.bin").write_bytes(pickle.dumps((np.stack([picture(seed) for seed in (0, 1, 0, 2)]), SAME)))
    command(str(tmp_path / "pixels.bin"), "--to", "bin", "-o", str(tmp_path / "files.bin"))
    images = [np.array(Image.open(io.BytesIO(data))) for left, right, _ in by_insightface(tmp_path / "files.bin") for data in (left, right)]
    assert all(np.array_equal(image, picture(seed)) for image, seed in zip(images, (0, 1, 0, 2)))
    for arguments, message in (
        ((str(people), "--to", "bin", "-o", str(tmp_path / "x.bin")), "give the list of pairs too, --pairs"),
        ((str(people), "--pairs", "x", "--to", "rec", "-o", str(tmp_path / "x")), "--pairs goes with --to bin"),
        (("mine", "--to", "bin", "-o", str(tmp_path / "files.bin")), r"files\.bin exists"),
        (("nobody", "--to", "bin", "-o", str(tmp_path / "x.bin")), "no data or weights are called"),
        ((str(tmp_path / "pixels.bin"), "--to", "parquet", "-o", str(tmp_path / "x")), "pairs.*--to bin"),
    ):
        with pytest.raises(UserError, match=message):
            command(*arguments)
    assert not (tmp_path / "x.bin").exists()
