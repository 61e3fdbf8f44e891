"""The network, gradient reversal, and the losses on unlabelled pictures against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from common.report import architecture, summary_table
from p3_dann.augment import prepare
from p3_dann.evaluate import domain_features, information
from p3_dann.losses import conditional_entropy, consistency
from p3_dann.model import DANN_model, GradientReversal, grl_lambda_at, running_statistics_kept
from p3_dann.presets import PRESETS

PRINTED = """DANN_model(
  (feature_extract): Sequential(
    (0): Conv2d(3, 64, kernel_size=(5, 5), stride=(1, 1))
    (1): BatchNorm2d(64, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (2): ReLU(inplace=True)
    (3): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
    (4): Conv2d(64, 48, kernel_size=(5, 5), stride=(1, 1))
    (5): BatchNorm2d(48, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (6): Dropout2d(p=0.3, inplace=True)
    (7): ReLU(inplace=True)
    (8): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
  )
  (class_classifier): Sequential(
    (0): Dropout(p=0.3, inplace=False)
    (1): Linear(in_features=768, out_features=192, bias=True)
    (2): BatchNorm1d(192, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (3): Mish(inplace=True)
    (4): Dropout(p=0.3, inplace=False)
    (5): Linear(in_features=192, out_features=128, bias=True)
    (6): BatchNorm1d(128, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (7): Mish(inplace=True)
    (8): Linear(in_features=128, out_features=10, bias=True)
  )
  (domain_classifier): Sequential(
    (0): Dropout(p=0.3, inplace=False)
    (1): Linear(in_features=768, out_features=128, bias=True)
    (2): BatchNorm1d(128, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (3): Mish(inplace=True)
    (4): Linear(in_features=128, out_features=2, bias=True)
  )
)"""

SUMMARY_LAYERS = (
    "Conv2d-1 [-1, 64, 24, 24] 4,864",
    "BatchNorm2d-2 [-1, 64, 24, 24] 128",
    "ReLU-3 [-1, 64, 24, 24] 0",
    "MaxPool2d-4 [-1, 64, 12, 12] 0",
    "Conv2d-5 [-1, 48, 8, 8] 76,848",
    "BatchNorm2d-6 [-1, 48, 8, 8] 96",
    "Dropout2d-7 [-1, 48, 8, 8] 0",
    "ReLU-8 [-1, 48, 8, 8] 0",
    "MaxPool2d-9 [-1, 48, 4, 4] 0",
    "Dropout-10 [-1, 768] 0",
    "Linear-11 [-1, 192] 147,648",
    "BatchNorm1d-12 [-1, 192] 384",
    "Mish-13 [-1, 192] 0",
    "Dropout-14 [-1, 192] 0",
    "Linear-15 [-1, 128] 24,704",
    "BatchNorm1d-16 [-1, 128] 256",
    "Mish-17 [-1, 128] 0",
    "Linear-18 [-1, 10] 1,290",
    "Dropout-19 [-1, 768] 0",
    "Linear-20 [-1, 128] 98,432",
    "BatchNorm1d-21 [-1, 128] 256",
    "Mish-22 [-1, 128] 0",
    "Linear-23 [-1, 2] 258",
)


def test_prints_as_in_the_original_report() -> None:
    assert architecture(DANN_model()) == PRINTED


def test_summary_as_in_the_original_report() -> None:
    pytest.importorskip("torchsummary")
    lines = [" ".join(line.split()) for line in summary_table(DANN_model(), (3, 28, 28)).splitlines()]
    assert [line for line in lines if "[-1," in line] == list(SUMMARY_LAYERS)
    assert "Total params: 355,164" in lines


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
        torch.nn.functional.cross_entropy(domain_logits, torch.tensor([0, 0, 0, 1, 1, 1])).backward()
        gradients[grl_lambda] = (model.feature_extract[0].weight.grad, model.domain_classifier[1].weight.grad)
    torch.testing.assert_close(gradients[0.5][0], -0.5 * gradients[-1.0][0])
    torch.testing.assert_close(gradients[0.5][1], gradients[-1.0][1])
    assert gradients[0.5][0].abs().max() > 0


def test_schedule_of_lambda() -> None:
    assert grl_lambda_at(0.0) == 0.0
    assert grl_lambda_at(0.5) == pytest.approx(2 / (1 + math.exp(-5)) - 1)
    assert grl_lambda_at(1.0, maximum=0.3) == pytest.approx(0.3, abs=1e-4)


def test_separate_domains_keep_the_target_statistics() -> None:
    torch.manual_seed(0)
    source, target = torch.randn(8, 3, 28, 28), 3.0 + torch.randn(8, 3, 28, 28)
    model, alone = DANN_model().train(), DANN_model().train()
    alone.load_state_dict(model.state_dict())
    model(torch.cat([source, target]), separate_domains=True)
    alone(target)
    for separate, only in zip(model.feature_extract.buffers(), alone.feature_extract.buffers(), strict=True):
        if separate.is_floating_point():
            torch.testing.assert_close(separate, only)
    assert all(layer.momentum == 0.1 for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d))


def test_joint_domains_mix_their_statistics() -> None:
    model = DANN_model().train()
    pair = torch.cat([torch.zeros(8, 3, 28, 28), torch.ones(8, 3, 28, 28)])
    model(pair)
    convolved = model.feature_extract[0](pair)
    torch.testing.assert_close(model.feature_extract[1].running_mean, 0.1 * convolved.mean(dim=(0, 2, 3)).detach())


def test_running_statistics_are_kept_even_after_an_error() -> None:
    model = DANN_model().train()
    before = {name: tensor.clone() for name, tensor in model.named_buffers() if "running" in name}
    with pytest.raises(ZeroDivisionError), running_statistics_kept(model):
        model(torch.randn(4, 3, 28, 28))
        raise ZeroDivisionError
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers() if name in before)
    assert model.feature_extract[1].momentum == 0.1


def test_conditional_entropy_closed_forms() -> None:
    assert conditional_entropy(torch.zeros(4, 10)).item() == pytest.approx(math.log(10))
    assert conditional_entropy(1000.0 * torch.eye(10)).item() == pytest.approx(0.0)


def test_consistency_follows_only_the_confident_teacher() -> None:
    student = torch.zeros(2, 10)
    teacher = torch.zeros(2, 10)
    teacher[0, 3] = 100.0
    sure_source = 100.0 * torch.eye(10)
    loss, share = consistency(student, teacher, sure_source, confidence=0.9)
    assert share.item() == 0.5
    assert loss.item() == pytest.approx(math.log(10) / 2)
    unsure_source = torch.zeros(3, 10)
    assert consistency(student, teacher, unsure_source, confidence=0.9)[1].item() == 1.0


def test_layers_sum_to_the_total_of_the_original_report() -> None:
    counted = sum(int(line.split()[-1].replace(",", "")) for line in SUMMARY_LAYERS)
    assert counted == 355_164 == sum(parameter.numel() for parameter in DANN_model().parameters())


def test_information_is_none_for_one_answer_and_log_ten_for_ten_sure_ones() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (200, 3, 28, 28), dtype=torch.uint8)
    model, config = DANN_model().eval(), PRESETS["cpu"]
    last = model.class_classifier[-1]
    torch.nn.init.zeros_(last.weight)
    assert information(model, images, config) == pytest.approx(0.0, abs=1e-5)
    torch.nn.init.normal_(last.weight, std=1e4)
    assert 0.1 < information(model, images, config, batch_size=60) <= math.log(10)


def test_features_of_each_domain_are_normalised_as_in_training() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 28, 28), dtype=torch.uint8)
    model, joint = DANN_model().eval(), replace(PRESETS["cpu"], batchnorm="joint")
    separate = replace(joint, batchnorm="separate")
    running = {name: tensor.clone() for name, tensor in model.named_buffers() if "running" in name}
    expected = model.features(prepare(images, joint))
    assert expected.shape == (8, 768)
    torch.testing.assert_close(domain_features(model, images, joint, is_source=True), expected)
    torch.testing.assert_close(domain_features(model, images, separate, is_source=False), expected)
    own = domain_features(model, images, separate, is_source=True)
    assert all(torch.equal(model.get_buffer(name), tensor) for name, tensor in running.items())
    model.feature_extract[6].p = 0.0
    torch.testing.assert_close(own, model.train().features(prepare(images, joint)))
