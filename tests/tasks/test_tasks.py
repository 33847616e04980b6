"""Tasks: how nets learn and are scored, held by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from torchopt2edge.tasks.classification import Classification
from torchopt2edge.tasks.multilabel import MultiLabel
from torchopt2edge.tasks.super_resolution import SuperResolution

RNG = np.random.default_rng(0)


def test_classes() -> None:
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    task = Classification()
    assert task.metric(logits, np.array([0, 1, 1]))["top1"].tolist() == [100, 100, 0]
    assert task.predict(logits).tolist() == [0, 1, 0]
    smooth = Classification(label_smoothing=0.2)
    given, labels = torch.tensor(logits), torch.tensor([0, 1, 1])
    assert float(smooth.loss(given, labels)) > float(task.loss(given, labels))
    soft = torch.eye(2, dtype=torch.float64)[labels]
    assert float(task.loss(given, soft)) == pytest.approx(float(task.loss(given, labels)))


def test_several_labels() -> None:
    logits = np.array([[1.0, -1.0, 2.0], [1.0, 1.0, -3.0]])
    wanted = np.array([[1, 0, 1], [1, 0, 0]])
    found = MultiLabel().metric(logits, wanted)
    assert next(iter(found)) == "exact_match"
    assert found["exact_match"].tolist() == [100, 0]
    assert found["label_accuracy"].tolist() == pytest.approx([100, 200 / 3])
    p = 1 / (1 + np.exp(-logits))
    by_hand = -np.mean(wanted * np.log(p) + (1 - wanted) * np.log(1 - p))
    loss = MultiLabel().loss(torch.tensor(logits), torch.tensor(wanted))
    assert float(loss) == pytest.approx(by_hand)


def test_a_yes_or_no_has_one_output() -> None:
    logits, wanted = np.array([[1.0], [-2.0]]), np.array([1, 1])
    assert MultiLabel().metric(logits, wanted)["exact_match"].tolist() == [100, 0]
    assert float(MultiLabel().loss(torch.tensor(logits), torch.tensor(wanted))) > 0


def test_images() -> None:
    wanted = RNG.uniform(0, 1, (3, 3, 24, 24)).astype(np.float32)
    got = wanted + RNG.normal(0, 0.05, wanted.shape).astype(np.float32)
    found = SuperResolution(border=2).metric(got, wanted)
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    error = np.square(np.clip(got, 0, 1)[inside] - wanted[inside]).mean((1, 2, 3))
    assert found["psnr_db"].tolist() == pytest.approx((-10 * np.log10(error)).tolist(), abs=1e-3)
    assert all(0 < value < 1 for value in found["ssim"])
    same = SuperResolution(border=0).metric(wanted, wanted)
    assert same["psnr_db"].tolist() == [100.0] * 3  # not infinite
    assert same["ssim"].tolist() == pytest.approx([1.0] * 3)
    assert float(SuperResolution().loss(torch.tensor(got), torch.tensor(wanted))) == pytest.approx(
        float(np.abs(got - wanted).mean()), rel=1e-4
    )
    assert not math.isnan(float(found["ssim"].sum()))


def test_one_image_alone() -> None:
    wanted = RNG.uniform(0, 1, (1, 3, 24, 24)).astype(np.float32)
    assert SuperResolution().metric(wanted, wanted)["ssim"].shape == (1,)
