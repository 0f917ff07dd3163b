"""What a set is called and how it is shown: people x images, copies apart, and a picture that says what it shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_runs import make_run
from PIL import Image

from synthbench.data.faces import FaceSet
from synthbench.results import record, samples
from synthbench.store import write_json


def faces(identity, **columns) -> FaceSet:
    pixels = torch.full((len(identity), 3, 8, 8), 60, dtype=torch.uint8)
    return FaceSet.from_arrays(pixels, identity, columns={name: np.asarray(values) for name, values in columns.items()})


def test_a_size_says_people_and_images_and_copies_apart():
    assert samples.size(faces([0, 0, 1, 1, 2, 2])) == "3x2"
    assert samples.size(faces([0, 0, 0, 1])) == "2 people, 4 images"
    assert samples.size(faces([0, 0, 1, 1], sample=[0, -1, 0, -1]), "2x1") == "2x1 + 2 copies"
    assert samples.size(faces([0] * 1500 + [1], sample=[0] + [-1] * 1499 + [0])) == "2x1 + 1,499 copies"


@pytest.mark.parametrize("kept", [[0, 0, 1, 1], [0, 0, 0, 1]])
@pytest.mark.parametrize("copies", [0, 2, 1499])
def test_a_run_of_any_such_size_is_read_again(tmp_path, kept, copies):
    """A run.json is checked before it is believed: what we write is whole, and a text that is no size is not."""
    made = make_run(tmp_path)
    path = tmp_path / "results" / made["run"] / "run.json"
    size = samples.size(faces([*kept, *[0] * copies], sample=[0] * len(kept) + [-1] * copies))
    write_json(path, {**made, "size": size})
    found = record.read_run(path)
    assert found and found["size"] == size
    for other in ("large", f"{size} + some", f"{size} + 3 copies + 3 copies"):
        write_json(path, {**made, "size": other})
        assert record.read_run(path) is None


def test_the_picture_has_a_caption_and_a_line_below_each_image(tmp_path, monkeypatch):
    from PIL import ImageDraw

    written = []
    pen = ImageDraw.ImageDraw.text
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, xy, text, *a, **k: written.append(text) or pen(self, xy, text, *a, **k))
    made = faces([0, 0, 1, 1], m=[0.5, -1, 0.5, np.nan], similarity=[0.71, 0.4, 0.69, 0.5])
    samples.draw(tmp_path / "a.png", "cemiface 2x2", made, faces([0, 1]))
    assert written[0] == "cemiface 2x2" and "first column: the inquiry" in written[1] and "by the encoder" in written[2]
    assert written[3:] == ["inquiry", "m 0.5: 0.71", "m -1: 0.40", "inquiry", "m 0.5: 0.69", "0.50"]
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    assert (sheet[:16] < 128).any() and (sheet[100:104, 0:96] == 60).any()  # text above, an image below it
    written.clear()
    samples.draw(tmp_path / "b.png", "real 2x2", faces([0, 0, 1, 1]), None)
    assert written == ["real 2x2", "One person in each row."]
