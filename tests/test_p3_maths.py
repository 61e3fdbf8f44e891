"""P3's network, inputs, teacher and measures against closed forms, and its table of combinations."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

from common.device import Distributed
from common.training import ExponentialMovingAverage
from p3_dann import teacher
from p3_dann.augment import add_distractors, affine, augment, blur, change_intensity, prepare, rotate
from p3_dann.config import INPUTS, METHODS, PRESETS, TrainConfig, make_config
from p3_dann.evaluate import mutual_information
from p3_dann.model import DANN_model, GradientReversal, grl_lambda_at
from p3_dann.train import lr_factor
from p3_dann.tsne import domain_mixing, features_of, knn_accuracy

import pytest
import torch
import torch.nn.functional as F

ALONE = Distributed(0, 1, torch.device("cpu"))
PRINTED = Path(__file__).parent / "printed"
PLAIN, AUGMENTED = (make_config("source", inputs, "cpu", "svhn") for inputs in ("plain", "augmented"))
ONE = (1.0, 1.0)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (6, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


# the network


def test_prints_and_counts_as_in_the_course_report(capsys: pytest.CaptureFixture[str]) -> None:
    from torchsummary import summary

    # Newer versions of torch print one argument of norm layers more.
    printed = re.sub(r"(BatchNorm[^\n]*?), bias=True", r"\1", str(DANN_model()))
    assert printed == (PRINTED / "DANN_model.txt").read_text().rstrip("\n")
    summary(DANN_model().eval(), (3, 28, 28), device="cpu")
    said = capsys.readouterr().out
    layers = [" ".join(line.split()) for line in said.splitlines() if "[-1," in line]
    assert layers == (PRINTED / "DANN_model_summary.txt").read_text().splitlines()
    assert "Total params: 355,164" in said


def test_gradient_reversal_is_identity_forward_and_scaled_negative_backward() -> None:
    features = torch.randn(5, 3, requires_grad=True)
    reversed_features = GradientReversal.apply(features, 0.25)
    assert torch.equal(reversed_features, features)
    upstream = torch.randn(5, 3)
    reversed_features.backward(upstream)
    assert torch.equal(features.grad, -0.25 * upstream)


def test_domain_loss_trains_its_classifier_and_opposes_the_features() -> None:
    """The same domain loss gives the classifier one gradient for any lambda, the features -lambda times theirs."""
    gradients = {}
    for grl_lambda in (-1.0, 0.5):
        torch.manual_seed(0)
        model = DANN_model().eval()
        domain_logits = model(torch.randn(6, 3, 28, 28), grl_lambda)[1]
        F.cross_entropy(domain_logits, torch.tensor([0, 0, 0, 1, 1, 1])).backward()
        gradients[grl_lambda] = (model.feature_extract[0].weight.grad, model.domain_classifier[1].weight.grad)
    torch.testing.assert_close(gradients[0.5][0], -0.5 * gradients[-1.0][0])
    torch.testing.assert_close(gradients[0.5][1], gradients[-1.0][1])
    assert gradients[0.5][0].abs().max() > 0


# the axes


def test_methods_presets_and_inputs_set_fields_of_their_own() -> None:
    """A preset is a schedule, inputs are inputs, a method is its losses: no field belongs to two of them."""
    axes = [set().union(*table) for table in (PRESETS.values(), INPUTS.values(), (m.fields for m in METHODS.values()))]
    assert not axes[0] & axes[1] and not axes[0] & axes[2] and not axes[1] & axes[2]
    assert TrainConfig() == PLAIN


def test_each_level_of_inputs_adds_to_the_one_before_it() -> None:
    levels = list(INPUTS.values())
    for smaller, larger in itertools.pairwise(levels):
        assert smaller.items() <= larger.items() and len(smaller) < len(larger)
    usps = [make_config("source", inputs, "cpu", "usps") for inputs in INPUTS]
    assert [config.blur for config in usps] == [0.0, 0.0, 1.0, 1.0]
    assert [config.source_zoom for config in usps] == [ONE, ONE, ONE, (1.15, 1.5)]
    assert make_config("source", "augmented", "cpu", "receipts") == AUGMENTED


def test_schedules() -> None:
    assert grl_lambda_at(0.0) == 0.0
    assert grl_lambda_at(0.5) == pytest.approx(2 / (1 + math.exp(-5)) - 1)
    assert grl_lambda_at(1.0, maximum=0.3) == pytest.approx(0.3, abs=1e-4)
    assert 0.0 < lr_factor(0.0, 10_000, AUGMENTED) < 0.1
    assert lr_factor(AUGMENTED.warmup, 100, AUGMENTED) == pytest.approx(1.0, abs=0.01)
    assert lr_factor(1.0, 100, AUGMENTED) == pytest.approx(0.0)
    assert lr_factor(0.9, 100, make_config("dann", "plain", "course", "")) == 1.0
    assert [teacher.ramp_up(progress, 0.5) for progress in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.0, 0.5, 1.0, 1.0])
    assert teacher.ramp_up(0.0, 0.0) == 1.0


# inputs


def test_plain_inputs_lie_between_minus_one_and_one(images: torch.Tensor) -> None:
    inputs = prepare(images, PLAIN)
    torch.testing.assert_close(inputs, images / 127.5 - 1.0)
    assert all(torch.equal(augment(images, PLAIN, domain), inputs) for domain in ("source", "target"))


def test_standardized_inputs_do_not_depend_on_brightness_and_contrast(images: torch.Tensor) -> None:
    inputs = prepare(images, AUGMENTED)
    assert inputs.shape == (6, 3, 28, 28)
    torch.testing.assert_close(inputs.mean(dim=(2, 3)), torch.zeros(6, 3), atol=1e-5, rtol=0)
    dimmer = prepare((images // 2 + 50).to(torch.uint8), AUGMENTED)
    assert (dimmer - inputs).abs().mean() < 0.1
    # A constant image stays finite.
    assert prepare(torch.full((1, 3, 28, 28), 7, dtype=torch.uint8), AUGMENTED).abs().max() < 1e-3


def test_rotation_makes_sixes_of_nines_and_leaves_what_is_no_digit_upside_down(images: torch.Tensor) -> None:
    digits = torch.tensor([0, 1, 6, 7, 8, 9])
    rotated_images, rotated_digits = rotate(images, digits, 1.0)
    assert rotated_digits.tolist() == [0, 1, 9, 7, 8, 6]
    for number, rotated in enumerate((True, False, True, False, True, True)):
        assert torch.equal(rotated_images[number], images[number].rot90(2, (1, 2)) if rotated else images[number])
    again_images, again_digits = rotate(rotated_images, rotated_digits, 1.0)
    assert torch.equal(again_images, images) and torch.equal(again_digits, digits)


def test_as_many_are_rotated_as_asked() -> None:
    sixes, blank = torch.full((1000,), 6), torch.zeros(1000, 1, 2, 2)
    rotated = rotate(blank, sixes, 0.25)[1] == 9
    assert rotated.float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert torch.equal(rotate(blank, sixes, 0.0)[1], sixes)


def test_zoom_by_two_shows_the_middle() -> None:
    image = torch.zeros(1, 1, 28, 28)
    image[..., 7:21, 7:21] = 1.0
    still = replace(AUGMENTED, affine_degrees=0.0, affine_shear=0.0, affine_shift=0.0)
    assert affine(image, still, (2.0, 2.0), ONE)[..., 1:-1, 1:-1].min() == 1.0
    narrowed = affine(image, still, (2.0, 2.0), (0.5, 0.5))
    assert narrowed[0, 0, 14, :6].max() < 0.1 and narrowed[0, 0, 14, 8:20].min() == 1.0


def test_affine_rotation_keeps_the_center_and_moves_the_edge() -> None:
    torch.manual_seed(0)
    image = torch.zeros(8, 1, 28, 28)
    image[..., 13:15, :] = 1.0
    turned = affine(image, replace(AUGMENTED, affine_shear=0.0, affine_shift=0.0, affine_degrees=40.0), ONE, ONE)
    assert turned[:, 0, 13:15, 13:15].min() > 0.7
    assert turned[:, 0, 13:15, 0].min() < 0.5


def test_distractors_are_other_images_moved_and_as_bright_as_their_place_and_leave_the_middle() -> None:
    torch.manual_seed(0)
    pixels = torch.rand(5, 1, 28, 28)
    wide = add_distractors(pixels, probability=1.0)
    assert wide.shape == (5, 1, 28, 84)
    assert torch.equal(wide[..., 28 + 6 : 28 + 22], pixels[..., 6:22])
    assert not torch.equal(wide[..., 28:56], pixels)
    for number in range(5):
        for side in (-1, 1):
            expected = pixels[(number - side) % 5]
            expected = expected - expected.mean() + pixels[number].mean()
            # It stands 16 to 24 columns away and covers what is beyond halfway: its outer 10 columns are always seen.
            outer = slice(0, 10) if side < 0 else slice(18, 28)
            seen = [wide[number, ..., 28 + side * distance :][..., outer] for distance in range(16, 25)]
            assert sum(torch.allclose(part, expected[..., outer], atol=1e-6) for part in seen) == 1, (number, side)
    alone = add_distractors(pixels, probability=0.0)  # edges are repeated
    assert torch.equal(alone[..., 28:56], pixels)
    assert torch.equal(alone[..., :28], pixels[..., :1].expand(-1, -1, -1, 28))


def test_a_blurred_point_is_a_gaussian_of_unit_sum() -> None:
    flat = torch.full((2, 1, 28, 28), 0.3)
    torch.testing.assert_close(blur(flat, 2.0), flat)
    torch.manual_seed(1)
    point = torch.zeros(1, 1, 28, 28)
    point[..., 13, 13] = 1.0
    blurred = blur(point, 1.0)
    torch.testing.assert_close(blurred.sum(), torch.tensor(1.0))
    assert torch.equal(blurred, blurred.transpose(2, 3))
    # In a Gaussian's logarithm the step from the middle to 2 pixels is four times that to 1 pixel.
    middle, one, two = blurred[0, 0, 13, 13:16].log()
    torch.testing.assert_close(middle - two, 4 * (middle - one), rtol=1e-4, atol=1e-6)


def test_inversion_changes_the_sign_only() -> None:
    torch.manual_seed(0)
    pixels = torch.randn(64, 1, 28, 28)
    changed = change_intensity(pixels, replace(PLAIN, invert_probability=0.5))
    inverted = (changed == -pixels).flatten(1).all(1)
    assert torch.equal(changed[~inverted], pixels[~inverted])
    assert 10 < inverted.sum() < 54


# the teacher


class Fixed(torch.nn.Module):
    """A network that sees in every image what it is told."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def classify(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits


def teacher_of(logits: torch.Tensor, alignment: str = "none") -> teacher.EmaTeacher:
    """Return a teacher of these logits, whose source has every digit equally often."""
    config = replace(AUGMENTED, distribution_alignment=alignment)
    return teacher.EmaTeacher(ExponentialMovingAverage(Fixed(logits), 0.9), config, ALONE, torch.arange(10))


def test_pseudo_labels_count_where_the_teacher_is_as_sure_as_on_the_source(images: torch.Tensor) -> None:
    logits = torch.zeros(2, 10)
    logits[0, 3] = 100.0
    pseudo_labels, confidence = teacher_of(logits)(images[:2])
    assert pseudo_labels[0] == 3
    torch.testing.assert_close(confidence, torch.tensor([1.0, 0.1]))
    assert teacher.mask(confidence, 1.0, 0.9).tolist() == [1.0, 0.0]
    assert teacher.mask(confidence, torch.tensor(0.1), 0.9).tolist() == [1.0, 1.0]


def test_consistency_counts_only_what_the_mask_selects() -> None:
    loss = teacher.consistency(torch.zeros(2, 10), torch.tensor([3, 4]), torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx(math.log(10) / 2)


def test_alignment_keeps_the_right_distribution_and_raises_what_is_too_rare() -> None:
    torch.manual_seed(0)
    probabilities = torch.rand(6, 10).softmax(1)
    even = torch.full((10,), 0.1)
    for one_sided in (True, False):
        torch.testing.assert_close(teacher.align(probabilities, even, even, one_sided), probabilities)
    rare = even.clone()
    rare[6], rare[8] = 0.02, 0.18
    odds = lambda p, digit: p[:, 6] / p[:, digit]  # noqa: E731
    for one_sided, factor in ((True, 5.0), (False, 9.0)):
        raised = teacher.align(probabilities, even, rare, one_sided)
        torch.testing.assert_close(raised.sum(1), torch.ones(6))
        torch.testing.assert_close(odds(raised, 0), odds(probabilities, 0) * 5.0)
        torch.testing.assert_close(odds(raised, 8), odds(probabilities, 8) * factor)


def test_the_running_distribution_follows_the_teacher_and_turns_its_label(images: torch.Tensor) -> None:
    logits = torch.zeros(5, 10)
    logits[:4, 8], logits[4, 8], logits[4, 6] = 9.0, 9.0, 8.0  # four sure eights, and one that may be a six
    teach = teacher_of(logits, "both")
    seen = [teach(images[:5])[0].tolist() for _ in range(100)]
    assert seen[0] == [8] * 5 and seen[-1] == [8] * 4 + [6]
    expected = 0.99**100 * 0.1 + (1 - 0.99**100) * logits.softmax(1).mean(0)
    torch.testing.assert_close(teach.target_distribution, expected)
    restored = teacher_of(logits, "both")
    restored.load_state_dict(teach.state_dict())
    assert torch.equal(restored.target_distribution, teach.target_distribution)


# measures


def test_mutual_information_is_none_for_one_answer_and_log_ten_for_ten_sure_ones() -> None:
    assert mutual_information(torch.tensor([[5.0] + [0.0] * 9]).expand(20, -1)) == pytest.approx(0.0, abs=1e-6)
    assert mutual_information(1000.0 * torch.eye(10)) == pytest.approx(math.log(10))


def test_mixing_of_domains_that_lie_apart_and_mixed() -> None:
    torch.manual_seed(0)
    here, there = torch.randn(40, 8), 100.0 + torch.randn(40, 8)
    assert domain_mixing(here, there) == 0.0
    assert 0.4 < domain_mixing(here, torch.randn(40, 8)) < 0.6
    labels = torch.arange(40) % 2
    source = labels[:, None] * 50.0 + torch.randn(40, 8)
    assert knn_accuracy(source, labels, torch.tensor([[0.0] * 8, [50.0] * 8]), torch.tensor([0, 0])) == 0.5


def test_features_of_a_batch_with_its_own_statistics_are_those_of_training(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = DANN_model().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    source, target = images[:3], images[3:]
    found = features_of(model, PLAIN, source, target, batch_statistics=True)
    assert {name: tuple(value.shape) for name, value in found.items()} == {"768": (2, 3, 768), "128": (2, 3, 128)}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    evaluated = features_of(model, PLAIN, source, target, batch_statistics=False)["768"]
    torch.testing.assert_close(evaluated.flatten(0, 1), model.features(prepare(images, PLAIN)))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.train()
    torch.testing.assert_close(found["768"].flatten(0, 1), model.features(prepare(images, PLAIN)))
