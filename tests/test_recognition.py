"""Training: it learns, it resumes to the same bits, it refuses what cannot be trained on; recipes."""

import numpy as np
import pytest
import torch

from synthbench.config import config_names
from synthbench.data.faces import FaceSet
from synthbench.models.encoder import load_encoder
from synthbench.recognition import trainer
from synthbench.recognition.trainer import Backbone, Recipe, load_recipe, train
from synthbench.types import UserError

CPU = torch.device("cpu")


def noisy_people(identities=6, images=16, resolution=16, seed=0):
    random = np.random.default_rng(seed)
    people = random.integers(0, 256, (identities, resolution, resolution, 3))
    label = np.repeat(np.arange(identities), images)
    pixels = np.clip(people[label] * 0.7 + random.normal(0, 30, (len(label), resolution, resolution, 3)) + 38, 0, 255).astype(np.uint8)
    return FaceSet.from_arrays(pixels, label)


def tiny(**changes):
    settings = {
        "backbone": Backbone(family="small", width=8),
        "dim": 16,
        "scale": 16.0,
        "margin": 0.2,
        "epochs": 8,
        "batch_size": 24,
        "lr": 0.05,
        "dropout": 0.1,
        "augmentation": ({"name": "flip"}, {"name": "erase"}, {"name": "low_resolution"}),
        **changes,
    }
    return Recipe(**settings)


def run(faces, recipe, out, seed=0, stop=None):
    """Train; with `stop`, abandon the generator after that many looks, as a crash would."""
    steps = []
    for step in train(faces, recipe, seed=seed, device=CPU, out=out):
        steps.append(step)
        if len(steps) == stop:
            break
    return steps


def weights(folder):
    return (folder / "weights.safetensors").read_bytes()


def test_it_learns_and_writes_an_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "REPORT", 8)
    faces = noisy_people()
    steps = run(faces, tiny(), tmp_path)
    assert steps[-1].number == steps[-1].total == 32 and steps[-1].loss < steps[0].loss
    assert all(step.images_per_second > 0 and 0 <= step.waiting <= 1 for step in steps)
    assert not (tmp_path / "checkpoint.pt").exists()
    encoder = load_encoder(tmp_path)
    assert (encoder.dim, encoder.resolution) == (16, 16)
    cosine = (z := encoder.embed_all(faces)) @ z.T
    same = faces.identity[:, None] == faces.identity
    assert cosine[same].mean() > cosine[~same].mean() + 0.4


@pytest.mark.parametrize("head", ["cosface", "adaface"])
def test_resume_is_bit_identical(tmp_path, monkeypatch, head):
    """Dropout, augmentation, order, momentum, schedule and AdaFace's running statistics all continue."""
    faces, recipe = noisy_people(), tiny(head=head)
    whole = run(faces, recipe, tmp_path / "whole")
    monkeypatch.setattr(trainer.loop, "EVERY", 0.0)
    monkeypatch.setattr(trainer, "REPORT", 5)
    monkeypatch.setattr(trainer, "LOOK", 1e9)
    run(faces, recipe, tmp_path / "cut", stop=3)
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["step"] == 12  # the end of an epoch
    rest = run(faces, recipe, tmp_path / "cut")
    assert rest[0].number == 16
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert rest[-1].number == whole[-1].number


def test_a_network_learns_the_embeddings_of_another_without_labels(tmp_path, monkeypatch):
    """Two images of one person get one embedding because the teacher's are near, and a killed training goes on to the same bits."""
    people = noisy_people()
    unlabelled = FaceSet.from_arrays(people.images(slice(None)), np.full(len(people), -1))
    teacher = torch.nn.functional.normalize(torch.randn(6, 16, generator=torch.Generator().manual_seed(1)), dim=1)[people.identity]
    recipe, settings = tiny(), {"seed": 0, "device": CPU, "teacher": teacher}
    for _ in train(unlabelled, recipe, out=tmp_path / "whole", **settings):
        pass
    found = torch.from_numpy(load_encoder(tmp_path / "whole").embed_all(unlabelled))
    own, other = (found * teacher).sum(1), (found * teacher.roll(16, 0)).sum(1)
    assert own.mean() > 0.5 and own.mean() > other.mean() + 0.4
    monkeypatch.setattr(trainer.loop, "EVERY", 0.0)
    steps = train(unlabelled, recipe, out=tmp_path / "cut", **settings)
    for _ in range(3):
        next(steps)
    steps.close()
    for _ in train(unlabelled, recipe, out=tmp_path / "cut", **settings):
        pass
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_the_loss_of_a_teacher_is_the_angle():
    head = trainer.Head("cosface", 2, 1, scale=16.0)
    wanted = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = trainer.distillation(wanted)(head, torch.tensor([[3.0, 0.0], [5.0, 5.0]]), torch.tensor([-1, -1]))
    assert loss.item() == pytest.approx(16 * (0 + 1 - 0.5**0.5) / 2)


def test_the_seed_decides(tmp_path):
    faces, recipe = noisy_people(), tiny(epochs=1)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(seed + len(name))  # the global stream has no say
        run(faces, recipe, tmp_path / name, seed=seed)
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


def test_a_set_smaller_than_a_batch(tmp_path):
    steps = run(noisy_people(2, 3), tiny(epochs=3), tmp_path)
    assert steps[-1].total == 3


def test_checkpoint_of_something_else(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.loop, "EVERY", 0.0)
    monkeypatch.setattr(trainer, "REPORT", 5)
    monkeypatch.setattr(trainer, "LOOK", 1e9)
    faces = noisy_people()
    run(faces, tiny(), tmp_path, stop=2)
    with pytest.raises(UserError, match="another recipe, seed or set"):
        run(faces, tiny(lr=0.01), tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:5000])
    with pytest.raises(UserError, match="damaged"):
        run(faces, tiny(), tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"half")  # not even the zip that torch writes
    with pytest.raises(UserError, match="damaged"):
        run(faces, tiny(), tmp_path)


def test_non_finite_loss_is_diagnosed(tmp_path):
    with pytest.raises(UserError, match=r"loss became (nan|inf) at step \d+ .*gradient norm.*too high for batch 24"):
        run(noisy_people(), tiny(lr=1e30), tmp_path)
    assert not (tmp_path / "weights.safetensors").exists()


def test_what_cannot_be_trained_on(tmp_path):
    faces = noisy_people(1)
    with pytest.raises(UserError, match="at least two identities"):
        run(faces, tiny(), tmp_path)
    faces = noisy_people(3)
    faces.identity = faces.identity + 1
    with pytest.raises(UserError, match=r"labels must lie in 0\.\.2"):
        run(faces, tiny(), tmp_path)
    faces = noisy_people(3)
    faces.resolution = 32
    with pytest.raises(UserError, match="says 32 px"):
        run(faces, tiny(), tmp_path)


def test_schedules():
    steps = Recipe(epochs=40, lr=0.1, drops=(26, 34, 36))
    assert [round(steps.lr_at(epoch * 10, 10), 9) for epoch in (0, 25, 26, 33, 34, 36, 39)] == [0.1, 0.1, 0.01, 0.01, 0.001, 0.0001, 0.0001]
    linear = Recipe(epochs=20, lr=0.1, schedule="polynomial")
    assert linear.lr_at(0, 5) == 0.1 and abs(linear.lr_at(50, 5) - 0.05) < 1e-12 and 0 < linear.lr_at(99, 5) < 0.0011
    cosine = Recipe(epochs=11, lr=0.1, schedule="cosine", warmup=1)
    assert abs(cosine.lr_at(0, 10) - 0.01) < 1e-12 and abs(cosine.lr_at(9, 10) - 0.1) < 1e-12
    assert abs(cosine.lr_at(10, 10) - 0.1) < 1e-12 and abs(cosine.lr_at(60, 10) - 0.05) < 1e-12


def test_decay_can_leave_out_batch_norm():
    faces = noisy_people(2, 2)
    _, head, optimizer = trainer.setup(faces, tiny(decay_norm=False), 0, CPU)
    decayed, free = optimizer.param_groups
    assert decayed["weight_decay"] == 5e-4 and free["weight_decay"] == 0
    assert all(p.dim() == 1 for p in free["params"]) and any(p is head.weight for p in decayed["params"])
    (everything,) = trainer.setup(faces, tiny(), 0, CPU)[2].param_groups
    assert len(everything["params"]) == len(decayed["params"]) + len(free["params"])


@pytest.mark.parametrize("name", ["cemiface", "adaface", "vec2face", "admis", "idiff", "arcface_torch", "demo", "photos"])
def test_presets(name):
    recipe = load_recipe(name)
    assert recipe.name == name and name in config_names("recipes")
    text = (trainer.config.config_path("recipes", name)).read_text()
    assert text.startswith("# ")


def test_cemiface_is_the_papers():
    recipe = load_recipe("cemiface")
    assert (recipe.head, recipe.margin, recipe.batch_size, recipe.epochs, recipe.drops[:2]) == ("cosface", 0.4, 512, 40, (26, 34))
    assert recipe.backbone.architecture(recipe.dropout) == {"family": "irse", "depth": 50, "se": True, "dropout": 0.4}


def test_mistakes_in_a_recipe(tmp_path):
    with pytest.raises(UserError, match="did you mean 'cemiface'"):
        load_recipe("cemifaces")
    path = tmp_path / "mine.yaml"
    path.write_text("head: cosface\nepoch: 3\n")
    with pytest.raises(UserError, match=r"mine\.yaml:2: unknown setting 'epoch'; did you mean 'epochs'"):
        load_recipe(str(path))
    path.write_text("augmentation:\n  - {name: flop}\n")
    with pytest.raises(UserError, match=r"mine\.yaml:2: .*flip"):
        load_recipe(str(path))
    path.write_text("augmentation:\n  - {name: erase, scale: [0.3, 0.1]}\n")
    with pytest.raises(UserError, match="low <= high"):
        load_recipe(str(path))
    path.write_text("backbone: {family: irse, depth: 200}\n")
    with pytest.raises(UserError, match="irse has no depth 200"):
        load_recipe(str(path))
