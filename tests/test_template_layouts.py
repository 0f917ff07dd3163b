"""IJB-B, IJB-C and TinyFace in the forms in which they are passed on, made small here; and lists that name what is not there."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from synthbench.data import align, sources
from synthbench.data.templatelists import list_templates
from synthbench.types import UserError

# template, media, image of each face; who a template shows
FACES = [(10, 1, 1), (10, 2, 2), (11, 3, 3), (20, 4, 4), (20, 4, 5), (21, 6, 6), (30, 7, 7), (31, 8, 8)]
SUBJECT = {10: 5, 11: 5, 20: 6, 21: 6, 30: 7, 31: 7}
GALLERIES = {"G1": [10], "G2": [20, 30]}
PROBES = [11, 21, 31]


def picture(number, side=160):
    random = np.random.default_rng(number)
    return np.kron(random.integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((side // 8, side // 8, 1), np.uint8))


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, format="PNG")  # whatever it is called: what matters is what is in it


def landmarks(number):
    """Those of the template, moved: shifted by 20 and 30 pixels, and doubled in size about the corner for even numbers."""
    return align.TEMPLATE * (1.2 if number % 2 == 0 else 1.0) + (10, 12)


def csv(templates, more=False):
    lines = ["TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT,AGE"]
    for template, media, number in FACES:
        if template in templates:
            lines.append(f"{template},{SUBJECT[template]},{'frames' if media == 4 else 'img'}/{number}.png,{media},20,30,80,100,")
    return "\n".join(lines) + "\n"


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "IJBC"
    meta = root / "meta"
    meta.mkdir(parents=True)
    for _, _, number in FACES:
        write(root / "loose_crop" / f"{number}.png", picture(number))
    points = {number: " ".join(f"{v:.4f}" for v in landmarks(number).ravel()) for _, _, number in FACES}
    (meta / "ijbc_name_5pts_score.txt").write_text("".join(f"{n}.png {points[n]} {0.1 * n:.2f}\n" for _, _, n in reversed(FACES)))
    (meta / "ijbc_face_tid_mid.txt").write_text("".join(f"{n}.png {t} {m}\n" for t, m, n in FACES))
    (meta / "ijbc_template_pair_label.txt").write_text("10 11 1\n10 21 0\n20 21 1\n30 31 1\n30 11 0\n")
    for name, templates in GALLERIES.items():
        (meta / f"ijbc_1N_gallery_{name}.csv").write_text(csv(templates))
    (meta / "ijbc_1N_probe_mixed.csv").write_text(csv(PROBES))
    return root


@pytest.fixture
def protocols(tmp_path):
    root = tmp_path / "IJB-B"
    (root / "protocols").mkdir(parents=True)
    for _, media, number in FACES:
        write(root / "images" / ("frames" if media == 4 else "img") / f"{number}.png", picture(number))
    for name, templates in GALLERIES.items():
        (root / "protocols" / f"ijbb_1N_gallery_{name.replace('G', 'S')}.csv").write_text(csv(templates))
    (root / "protocols" / "ijbb_1N_probe_mixed.csv").write_text(csv(PROBES))
    (root / "protocols" / "ijbb_11_S1_S2_matches.csv").write_text("10,11\n10,21\n20,21\n30,31\n30,11\n")
    return root


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tinyface" / "Testing_Set"
    names = {"Probe": ["1_1.jpg", "2_1.jpg"], "Gallery_Match": ["1_2.jpg", "1_3.jpg", "2_2.jpg"], "Gallery_Distractor": ["9.jpg", "8.jpg"]}
    for part, files in names.items():
        for number, name in enumerate(files):
            write(root / part / name, picture(number, 24))
    cells = {part: np.array([[name] for name in files], dtype=object) for part, files in names.items()}
    savemat(root / "probe_img_ID_pairs.mat", {"probe_set": cells["Probe"], "probe_ids": np.array([[1], [2]], np.uint16)})
    savemat(root / "gallery_match_img_ID_pairs.mat", {"gallery_set": cells["Gallery_Match"], "gallery_ids": np.array([[1], [1], [2]])})
    return root


def named(who):
    """Template numbers of the files for those of `who`, which are dense and in their order."""
    return np.unique([template for template, *_ in FACES])[who]


def check_ijb(found, galleries):
    who = found.who
    assert not who.faults()
    assert sorted(named(who.template)) == sorted(template for template, *_ in FACES)
    assert {name: named(rows).tolist() for name, rows in who.galleries.items()} == galleries
    assert named(who.probes).tolist() == PROBES
    assert who.subject.tolist() == [SUBJECT[template] for template in sorted(SUBJECT)]
    assert (named(who.left).tolist(), named(who.right).tolist()) == ([10, 10, 20, 30, 30], [11, 21, 21, 31, 11])
    assert who.same.tolist() == [True, False, True, True, False]


def test_the_archive_of_insightface(archive):
    found = list_templates(archive)
    check_ijb(found, GALLERIES)
    np.testing.assert_allclose(found.who.weight, [0.1 * number for _, _, number in FACES], rtol=1e-6)
    assert found.who.media[3] == found.who.media[4] and len(set(found.who.media)) == 7
    odd = found.image(0)  # landmarks are only shifted: 10 to the right, 12 down
    np.testing.assert_allclose(odd.astype(int), picture(1)[12:124, 10:122], atol=1)
    assert found.image(1).shape == (112, 112, 3)
    assert "6 templates of 8 faces, 5 comparisons, 3 probes, galleries G1 (1), G2 (2)" in found.read


def test_crops_that_are_aligned_stay(archive):
    write(archive / "loose_crop" / "2.png", picture(2, 112))
    np.testing.assert_array_equal(list_templates(archive).image(1), picture(2, 112))


def test_without_lists_for_identification_the_pairs_tell_who_is_who(archive):
    for path in archive.glob("meta/*.csv"):
        path.unlink()
    who = list_templates(archive.parent).who
    assert not who.galleries and who.subject[0] == who.subject[1] != who.subject[2] == who.subject[3] != who.subject[4]


def test_the_csv_protocols_of_nist(protocols):
    found = list_templates(protocols)
    check_ijb(found, {"S1": [10], "S2": [20, 30]})
    assert any("not aligned" in doubt for doubt in found.doubts)
    first = found.image(0)  # box 80 x 100 at (20, 30): the square of its longer side about the middle, at 112 px
    np.testing.assert_allclose(first[64, 64].astype(int), picture(1)[80 + 8, 60 + 8], atol=1)


def test_what_the_protocols_lack_is_named_with_its_list_and_line(protocols):
    (protocols / "images" / "img" / "8.png").unlink()
    with pytest.raises(UserError, match=r"ijbb_1N_probe_mixed\.csv, line 4: no image img/8\.png"):
        list_templates(protocols)
    for path in protocols.glob("protocols/*gallery*"):
        path.unlink()
    with pytest.raises(UserError, match=r"no \*_1N_gallery_\*\.csv beside"):
        list_templates(protocols)


def test_tinyface_has_matches_and_distractors_in_one_gallery(tiny):
    found = list_templates(tiny.parent)
    who = found.who
    assert who.subject[who.probes].tolist() == [1, 2] and who.subject[who.galleries["all"]].tolist() == [1, 1, 2, -1, -1]
    np.testing.assert_array_equal(found.image(0), picture(0, 24))
    assert "2 probes, 3 images of matches, 2 of distractors" in found.read


def test_aligned_copies_of_tinyface_find_the_lists_beside(tiny):
    copy = tiny.parent.parent / "aligned"
    copy.mkdir()
    for part in ("Probe", "Gallery_Match"):
        (tiny / part).rename(copy / part)
    found = list_templates(copy)
    assert len(found.who) == 5 and any("no distractors" in doubt for doubt in found.doubts)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("template_pair_label", "20 21 1", "20 99 1", "template_pair_label.txt, line 3: template 99 has no image"),
        ("template_pair_label", "20 21 1", "20 21 2", "line 3: the label 2 is neither 1 nor 0"),
        ("template_pair_label", "20 21 1", "20 x 1", "line 3: 'x' is no whole number"),
        ("face_tid_mid", "3.png 11 3", "77.png 11 3", "line 3: 77.png has no landmarks"),
        ("name_5pts_score", "\n3.png", "\n4.png", "4.png is named twice"),
        ("1N_gallery_G2", "TEMPLATE_ID,SUBJECT_ID", "TEMPLATE,SUBJECT", "no column TEMPLATE_ID"),
        ("1N_gallery_G2", "20,6,frames/5.png", "20,5,frames/5.png", "template 20 shows subject 5 here and another elsewhere"),
        ("1N_probe_mixed", "21,6,", "22,6,", "1N_probe_mixed.csv, line 3: template 22 has no image"),
    ],
)
def test_lists_that_cannot_be_are_refused_with_their_line(archive, name, old, new, said):
    path = next(archive.glob(f"meta/*{name}*"))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        list_templates(archive)
    assert said in str(error.value)


def test_a_name_that_leads_elsewhere_is_no_image(archive):
    for name in ("face_tid_mid", "name_5pts_score"):
        path = next(archive.glob(f"meta/*{name}*"))
        path.write_text(path.read_text().replace("8.png", "../../8.png"))
    write(archive.parent / "8.png", picture(8))
    with pytest.raises(UserError, match=r"no image \.\./\.\./8\.png"):
        list_templates(archive)


def test_a_damaged_matlab_file_is_a_sentence(tiny):
    (tiny / "probe_img_ID_pairs.mat").write_bytes(b"MATLAB 5.0" + bytes(200))
    with pytest.raises(UserError, match="no list with probe_set and probe_ids"):
        list_templates(tiny)


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(UserError, match="no template set"):
        list_templates(tmp_path)


def test_a_registered_set_tells_what_was_understood(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))
    entry = sources.add("mine", archive, "templates")
    assert (entry.images, entry.identities) == (8, 3) and "5 comparisons" in entry.read
    assert sources.find("mine", "templates").digest == entry.digest
    with pytest.raises(UserError, match="is registered as templates"):
        sources.find("mine", "pairs")


def test_a_matlab_file_that_unpacks_to_much_is_refused(tiny):
    """As packed as can be, and of more images than it may name: 800 MB took minutes and 6 GB."""
    savemat(tiny / "probe_img_ID_pairs.mat", {"probe_set": np.zeros(2**26, np.uint8)}, do_compression=True)
    assert (tiny / "probe_img_ID_pairs.mat").stat().st_size < 2**17
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="it unpacks to more than 33,554,432 bytes"):
            list_templates(tiny)
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()
