import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from synthbench.diffusion import process
from synthbench.training import loop


@pytest.mark.parametrize(("ours", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_signal_matches_diffusers(ours, theirs):
    reference = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule=theirs).alphas_cumprod
    torch.testing.assert_close(process.signal(ours), reference, rtol=2e-4, atol=1e-9)


def test_linear_signal_has_the_published_values():
    abar = process.signal("linear")
    assert abar[0] == pytest.approx(0.9999, abs=1e-6)
    assert abar[500] == pytest.approx(0.0778, abs=1e-4)
    assert abar[999] == pytest.approx(4.04e-5, rel=2e-3)


def test_add_noise_matches_diffusers():
    torch.manual_seed(0)
    x0, noise, t = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4), torch.tensor([0, 10, 400, 800, 999])
    reference = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02).add_noise(x0, noise, t)
    torch.testing.assert_close(process.add_noise(x0, noise, process.signal("linear")[t]), reference, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
def test_a_perfect_output_gives_back_image_and_noise(prediction):
    torch.manual_seed(0)
    x0, noise = torch.randn(4, 3, 4, 4, dtype=torch.float64), torch.randn(4, 3, 4, 4, dtype=torch.float64)
    abar = process.signal("cosine")[[1, 300, 700, 990]].double()
    x_t = process.add_noise(x0, noise, abar)
    found = process.estimate(process.target(x0, noise, abar, prediction), x_t, abar, prediction)
    torch.testing.assert_close(found.x0, x0)
    torch.testing.assert_close(found.epsilon, noise)


def test_v_target_matches_diffusers():
    torch.manual_seed(0)
    x0, noise, t = torch.randn(3, 3, 4, 4), torch.randn(3, 3, 4, 4), torch.tensor([5, 500, 950])
    reference = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02).get_velocity(x0, noise, t)
    torch.testing.assert_close(process.target(x0, noise, process.signal("linear")[t], "v"), reference, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("weighting", ["uniform", "min_snr", "clamped_snr"])
def test_weight_means_the_same_whatever_is_predicted(weighting):
    """The weighted error of one wrong estimate of x0 is the same number, expressed in epsilon, v or x0."""
    torch.manual_seed(0)
    x0, noise, wrong = torch.randn(3, 3, 4, 4).double(), torch.randn(3, 3, 4, 4).double(), torch.randn(3, 3, 4, 4).double()
    abar = process.signal("linear")[[10, 400, 900]].double()
    x_t = process.add_noise(x0, noise, abar)
    a, s = abar.sqrt()[:, None, None, None], (1 - abar).sqrt()[:, None, None, None]
    epsilon = (x_t - a * wrong) / s
    outputs = {"x0": wrong, "epsilon": epsilon, "v": a * epsilon - s * wrong}
    losses = [
        (output - process.target(x0, noise, abar, p)).square().mean((1, 2, 3)) * process.weight(abar, p, weighting)
        for p, output in outputs.items()
    ]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])


def test_weights_in_closed_form():
    abar = process.signal("linear")
    assert torch.equal(process.weight(abar, "epsilon", "uniform"), torch.ones(1000))  # the paper's plain epsilon error
    snr = abar / (1 - abar)
    torch.testing.assert_close(process.weight(abar, "v", "min_snr"), torch.minimum(snr, torch.tensor(5.0)) / (snr + 1))
    torch.testing.assert_close(process.weight(abar, "x0", "clamped_snr"), snr.clamp(1, 5))


def test_sampled_times():
    draw = torch.Generator().manual_seed(0)
    uniform = process.sample_times(20_000, 1000, draw)
    counts = torch.bincount(uniform // 100, minlength=10)
    assert counts.sum() == 20_000 and ((counts - 2000).abs() < 5 * np.sqrt(2000)).all()
    one_each = process.sample_times(50, 1000, draw, "stratified")
    assert sorted((one_each // 20).tolist()) == list(range(50)) and one_each.tolist() != sorted(one_each.tolist())


def test_time_steps_match_dcface_and_diffusers():
    assert process.time_steps(20) == list(range(950, -1, -50))
    for steps, spacing in [(50, "leading"), (20, "leading"), (12, "trailing"), (20, "trailing"), (1000, "leading")]:
        scheduler = DDIMScheduler(1000, timestep_spacing=spacing)
        scheduler.set_timesteps(steps)
        assert process.time_steps(steps, 1000, spacing) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_every_ddim_step_matches_diffusers(eta, prediction, spacing):
    torch.manual_seed(1)
    mixing = torch.randn(3, 3) * 0.5

    def network(x, t):
        return torch.einsum("oc,bchw->bohw", mixing, x) * (0.5 + float(t) / 1000)

    names = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
    scheduler = DDIMScheduler(
        1000, beta_start=1e-4, beta_end=0.02, prediction_type=names[prediction], clip_sample=True, timestep_spacing=spacing
    )
    scheduler.set_timesteps(20)
    noise = process.Noise([torch.Generator().manual_seed(i) for i in range(2)], (3, 8, 8))
    same = process.Noise([torch.Generator().manual_seed(i) for i in range(2)], (3, 8, 8))
    x = same()
    ours = list(process.ddim(network, noise, process.signal("linear"), 20, eta, prediction, spacing=spacing))
    assert len(ours) == 20
    for t, step in zip(scheduler.timesteps, ours):
        extra = same() if eta > 0 and t != scheduler.timesteps[-1] else torch.zeros_like(x)
        result = scheduler.step(network(x, t), t, x, eta=eta, variance_noise=extra)
        x = result.prev_sample
        torch.testing.assert_close(step, x, atol=3e-4, rtol=3e-3)


def test_ddim_finds_a_point_distribution():
    """With the exact denoiser of one image, any number of steps and any eta lands on that image."""
    image = torch.rand(1, 3, 4, 4) * 1.6 - 0.8
    abar = process.signal("linear")
    for steps, eta in [(1, 0.0), (7, 0.0), (20, 1.0)]:
        noise = process.Noise([torch.Generator().manual_seed(3)], (3, 4, 4))
        *_, last = process.ddim(lambda x, t: image.expand_as(x), noise, abar, steps, eta, "x0")
        torch.testing.assert_close(last, image, atol=1e-5, rtol=0)


def test_noise_of_an_image_does_not_depend_on_its_neighbours():
    ahead = process.Noise([torch.Generator().manual_seed(7)], (3, 8, 8))
    ahead.ahead = ThreadPoolExecutor(1)  # as for a GPU
    alone = process.Noise([torch.Generator().manual_seed(7)], (3, 8, 8))
    among = process.Noise([torch.Generator().manual_seed(s) for s in (1, 7, 3)], (3, 8, 8))
    for _ in range(3):
        one = alone()[0]
        assert torch.equal(one, among()[1]) and torch.equal(one, ahead()[0])


def test_steps_outside_the_schedule_are_refused():
    with pytest.raises(ValueError, match=r"1\.\.1000"):
        process.time_steps(0)


def test_snr_scale_multiplies_the_ratio() -> None:
    plain, scaled = process.signal("cosine")[100:900].double(), process.signal("cosine", snr_scale=8.0)[100:900].double()
    torch.testing.assert_close(scaled / (1 - scaled), 8 * plain / (1 - plain), rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_guidance_means_the_same_whatever_is_predicted(prediction):
    """Guiding the estimates of x0 and guiding the network's outputs is one and the same; without guidance the condition rules."""
    torch.manual_seed(0)
    x_t, conditional, unconditional = (torch.randn(3, 3, 4, 4).double() for _ in range(3))
    abar = process.signal("cosine")[[10, 400, 900]].double()

    def x0(output):
        return process.estimate(output, x_t, abar, prediction).x0

    torch.testing.assert_close(process.guided(conditional, unconditional, 0.0), conditional)
    found = process.guided(conditional, unconditional, 2.5)
    torch.testing.assert_close(found - unconditional, 3.5 * (conditional - unconditional))
    torch.testing.assert_close(x0(found), process.guided(x0(conditional), x0(unconditional), 2.5))


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
def test_plain_weight_leaves_the_error_of_the_output(prediction):
    assert process.weight(torch.tensor([0.1, 0.9]), prediction, "plain").tolist() == [1, 1]


def test_a_warm_up_below_1_is_a_share():
    for warmup in (0.05, 10):
        factors = [loop.lr_factor("cosine", warmup, step, 200) for step in range(200)]
        assert factors[:11] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1])


def test_restarts_double_in_length():
    """IDiff-Face: 150,000 steps with restarts after 10,000, 30,000 and 70,000."""
    factors = [loop.lr_factor("restarts", 0, step, 150) for step in range(150)]
    assert [step for step, factor in enumerate(factors) if factor == 1] == [0, 10, 30, 70]
    for begin, length in ((0, 10), (10, 20), (30, 40), (70, 80)):
        expected = [0.5 * (1 + math.cos(math.pi * i / length)) for i in range(length)]
        assert factors[begin : begin + length] == pytest.approx(expected)


def test_what_a_kill_left_beside_whole_weights_is_deleted(tmp_path):
    names = ("checkpoint.pt", "codes.safetensors", "metrics.jsonl", "weights.safetensors")
    for name in names[:3]:
        (tmp_path / name).write_text("")
    assert not loop.finished(tmp_path / names[3], "codes.safetensors") and len(list(tmp_path.iterdir())) == 3
    (tmp_path / names[3]).write_text("")
    assert loop.finished(tmp_path / names[3], "codes.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "weights.safetensors"]
