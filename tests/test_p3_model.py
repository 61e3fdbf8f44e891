"""The network, gradient reversal, and the losses on unlabelled pictures against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.report import architecture, summary_table
from p3_dann.measures import accuracies, information, other_domain_share, predicted_shares, vote_accuracy
from p3_dann.model import DANN_model, GradientReversal, MultilinearMap, grl_lambda_at
from p3_dann.presets import PRESETS
from p3_dann.pseudo_labels import PseudoLabels, align, consistency, threshold_factors

PRINTED = Path(__file__).parent / "printed"


def test_prints_as_in_the_original_report() -> None:
    printed = (PRINTED / "DANN_model.txt").read_text().rstrip("\n")
    assert architecture(DANN_model()) == f"```text\n{printed}\n```\n"
    lines = [" ".join(line.split()) for line in summary_table(DANN_model(), (3, 28, 28)).splitlines()]
    layers = [line for line in lines if "[-1," in line]
    assert layers == (PRINTED / "DANN_model_summary.txt").read_text().splitlines()
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


def test_joint_domains_mix_their_statistics() -> None:
    model = DANN_model().train()
    pair = torch.cat([torch.zeros(8, 3, 28, 28), torch.ones(8, 3, 28, 28)])
    model(pair)
    convolved = model.feature_extract[0](pair)
    torch.testing.assert_close(model.feature_extract[1].running_mean, 0.1 * convolved.mean(dim=(0, 2, 3)).detach())


def unaligned(**change: object) -> PseudoLabels:
    """Pseudo-labels of 5 target pictures whose source has every digit equally often."""
    config = replace(PRESETS["cpu"], **{"distribution_alignment": "none", "confidence": 0.9} | change)
    return PseudoLabels(config, torch.arange(10), 5)


def test_consistency_counts_only_what_is_followed() -> None:
    loss = consistency(torch.zeros(2, 10), torch.tensor([3, 4]), torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx(math.log(10) / 2)


def test_the_teacher_is_followed_where_it_is_as_sure_as_on_the_source() -> None:
    teacher = torch.zeros(2, 10)
    teacher[0, 3] = 100.0
    digits, confidence = unaligned().read(teacher)
    assert digits[0] == 3
    torch.testing.assert_close(confidence, torch.tensor([1.0, 0.1]))
    follow = lambda on_source: unaligned().followed(digits, confidence, on_source, torch.arange(2)).tolist()  # noqa: E731
    assert follow(1.0) == [1.0, 0.0] and follow(torch.tensor(0.1)) == [1.0, 1.0]


def test_alignment_keeps_right_shares_and_raises_what_is_too_rare() -> None:
    torch.manual_seed(0)
    probabilities = torch.rand(6, 10).softmax(1)
    even = torch.full((10,), 0.1)
    for lowers in (False, True):
        torch.testing.assert_close(align(probabilities, even, even, lowers), probabilities)
    rare = even.clone()
    rare[6], rare[8] = 0.02, 0.18
    odds = lambda p, digit: p[:, 6] / p[:, digit]  # noqa: E731
    for lowers, factor in ((False, 5.0), (True, 9.0)):
        raised = align(probabilities, even, rare, lowers)
        torch.testing.assert_close(raised.sum(1), torch.ones(6))
        torch.testing.assert_close(odds(raised, 0), odds(probabilities, 0) * 5.0)
        torch.testing.assert_close(odds(raised, 8), odds(probabilities, 8) * factor)


def test_the_running_share_follows_the_teacher_and_turns_its_label() -> None:
    labels = unaligned(distribution_alignment="match")
    teacher = torch.zeros(5, 10)
    teacher[:4, 8], teacher[4, 8], teacher[4, 6] = 9.0, 9.0, 8.0  # four sure eights, and one that may be a six
    seen = [labels.read(teacher)[0].tolist() for _ in range(100)]
    assert seen[0] == [8] * 5 and seen[-1] == [8] * 4 + [6]
    torch.testing.assert_close(labels.target_share, 0.99**100 * 0.1 + (1 - 0.99**100) * teacher.softmax(1).mean(0))
    restored = unaligned(distribution_alignment="match")
    restored.load_state_dict(labels.state_dict())
    assert torch.equal(restored.target_share, labels.target_share)


def test_thresholds_are_lower_for_digits_the_teacher_is_rarely_sure_of() -> None:
    """FlexMatch: beta / (2 - beta) with beta relative to the largest of all counts, that of the unsure included."""
    latest = torch.tensor([0] * 4 + [1] * 2 + [10] * 3)
    expected = torch.zeros(10)
    expected[0], expected[1] = 1.0, 0.5 / 1.5
    torch.testing.assert_close(threshold_factors(latest), expected)
    torch.testing.assert_close(threshold_factors(torch.tensor([0, 10, 10]))[0], torch.tensor(0.5 / 1.5))


def test_class_thresholds_remember_the_last_confident_digit_of_every_picture() -> None:
    labels = unaligned(class_thresholds=True)
    sure, unsure = 100.0 * torch.eye(10)[[2, 2]], torch.zeros(2, 10)
    labels.followed(*labels.read(sure), 1.0, torch.tensor([0, 3]))
    labels.followed(*labels.read(unsure), 1.0, torch.tensor([3, 4]))
    assert labels.latest.tolist() == [2, 10, 10, 2, 10]
    # Digit 0 was never confident, so even an unsure teacher is followed on it.
    assert labels.followed(*labels.read(unsure), 1.0, torch.tensor([3, 4])).tolist() == [1.0, 1.0]


def test_the_multilinear_map_keeps_inner_products_of_features_times_those_of_predictions() -> None:
    """In expectation over its projections: <T(f, g), T(f, g)> = |f|^2 |g|^2, as for the outer product itself."""
    features, logits = torch.randn(4, 768, generator=torch.Generator().manual_seed(0)), 100.0 * torch.eye(10)[:4]
    mapped = torch.stack([MultilinearMap(seed, torch.device("cpu"))(features, logits) for seed in range(20)])
    torch.testing.assert_close(mapped.square().sum(2).mean(0), features.square().sum(1), rtol=0.1, atol=0.0)
    across = torch.einsum("sad,sbd->ab", mapped, mapped) / 20 / features.square().sum(1).mean()
    assert (across - across.diag().diag()).abs().max() < 0.1  # other digits, other directions


def test_a_conditional_adversary_gives_predictions_no_gradient() -> None:
    model = DANN_model().eval()
    _, domains = model(torch.randn(4, 3, 28, 28), 1.0, MultilinearMap(0, torch.device("cpu")))
    assert domains.shape == (4, 2)
    domains.sum().backward()
    assert model.class_classifier[-1].weight.grad is None
    assert model.feature_extract[0].weight.grad.abs().max() > 0


def test_information_is_none_for_one_answer_and_log_ten_for_ten_sure_ones() -> None:
    assert information(torch.tensor([[5.0] + [0.0] * 9]).expand(20, -1)) == pytest.approx(0.0, abs=1e-6)
    assert information(1000.0 * torch.eye(10)) == pytest.approx(math.log(10))


def test_accuracy_of_all_and_of_each_digit() -> None:
    assert accuracies(torch.tensor([1, 1, 7, 7]), torch.tensor([1, 7, 7, 3])) == (0.5, {"1": 1.0, "3": 0.0, "7": 0.5})
    assert predicted_shares(torch.eye(10)[[0, 0, 0, 9]]) == [0.75] + [0.0] * 8 + [0.25]


def test_neighbours_of_domains_that_are_apart_and_mixed() -> None:
    torch.manual_seed(0)
    here, there = torch.randn(40, 8), 100.0 + torch.randn(40, 8)
    assert other_domain_share(here, there, 15) == 0.0
    assert 0.4 < other_domain_share(here, torch.randn(40, 8), 15) < 0.6
    labels = torch.arange(40) % 2
    source = labels[:, None] * 50.0 + torch.randn(40, 8)
    assert vote_accuracy(source, labels, torch.tensor([[0.0] * 8, [50.0] * 8]), torch.tensor([0, 0]), 5) == 0.5
