from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from tests import nets
from tests.stages.conftest import Run
from torchopt2edge.compression.distillation.loss import Distillation
from torchopt2edge.compression.distillation.spec import Teaching
from torchopt2edge.compression.distillation.terms import Hint
from torchopt2edge.data.digits import Digits
from torchopt2edge.errors import ConfigError
from torchopt2edge.models.artifact import load_model
from torchopt2edge.stages.distill import Distill
from torchopt2edge.stages.train import Train
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.training.batch import Batch
from torchopt2edge.types import Artifact

Save = Callable[[nn.Module, Callable[..., nn.Module]], Artifact]


class Fixed(nn.Module):
    """Gives the same logits whatever it sees; notes what it saw."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([logits]))
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return self.logits.expand(len(x), -1)


def test_loss_by_hand():
    teacher, student = Fixed([2.0, 0.0]), Fixed([0.0, 1.0])
    loss = Distillation(Teaching(temperature=2.0, alpha=0.25), [teacher], Classification().loss)
    images, labels = torch.zeros(3, 1), torch.tensor([1, 1, 1])
    p = 1 / (1 + math.exp(-1.0))  # teacher: softmax of (1, 0)
    q = 1 / (1 + math.exp(0.5))  # student: softmax of (0, 1/2)
    soft = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    hard = math.log(1 + math.exp(-1.0))
    got = loss(student, Batch(images, labels))
    assert float(got.detach()) == pytest.approx(0.25 * 4 * soft + 0.75 * hard, rel=1e-5)


def test_teacher_sees_the_students_batch_and_does_not_learn():
    teacher, student = Fixed([2.0, 0.0]), Fixed([0.0, 1.0])
    loss = Distillation(
        Teaching(temperature=2.0, alpha=0.5),
        [nn.Sequential(nn.BatchNorm1d(1), teacher)],
        Classification().loss,
    )
    loss.train()
    images = torch.randn(4, 1)
    loss(student, Batch(images, torch.zeros(4, dtype=torch.int64))).backward()
    assert student.logits.grad is not None
    assert teacher.logits.grad is None
    norm = loss.teachers[0][0]
    assert not norm.training
    assert norm.num_batches_tracked == 0
    torch.testing.assert_close(teacher.seen[0], student.seen[0], atol=1e-4, rtol=1e-4)


def test_a_student_learns_from_the_teacher_alone(
    run: Run, digits: Digits, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    teacher = run(Train(model=nets.tiny_resnet, data=digits, epochs=5))
    before = torch.load(teacher.path / "weights.pt", weights_only=True)
    stage = Distill(student=nets.tiny_resnet, data=digits, epochs=5, alpha=1.0, seed=1)
    assert stage.needs == {"teacher": "teacher"}
    student = run(stage, teacher=teacher)
    assert student.facts["top1_test"] > 75  # no label was used
    after = torch.load(teacher.path / "weights.pt", weights_only=True)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_init_starts_from_a_stage(run: Run, digits: Digits, artifact: Save):
    given = artifact(nets.lively(nets.tiny_resnet()), nets.tiny_resnet)
    stage = Distill(data=digits, init="first", epochs=0)
    assert stage.needs == {"teacher": "teacher", "init": "first"}
    made = run(stage, teacher=given, init=given)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(load_model(made.path)(images), load_model(given.path)(images))


def test_without_a_student_it_says_so(run: Run, digits: Digits, artifact: Save):
    given = artifact(nets.tiny_resnet(), nets.tiny_resnet)
    with pytest.raises(ConfigError, match="no student"):
        run(Distill(data=digits), teacher=given)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"alpha": 1.5}])
def test_numbers_out_of_range(run: Run, digits: Digits, artifact: Save, settings: dict[str, float]):
    given = artifact(nets.tiny_resnet(), nets.tiny_resnet)
    with pytest.raises(ConfigError, match="alpha"):
        run(Distill(data=digits, student=nets.tiny_resnet, **settings), teacher=given)


def test_a_teacher_that_knows_nothing_is_found_out(
    run: Run, digits: Digits, caplog: pytest.LogCaptureFixture
):
    ignorant = run(Train(model=nets.tiny_resnet, data=digits, epochs=0))
    stage = Distill(
        student=nets.tiny_resnet, data=digits, epochs=3, alpha=1.0, validation=200, check_plain=True
    )
    facts = run(stage, teacher=ignorant).facts
    assert facts["top1_validation"] + 20 < facts["top1_plain_validation"]
    assert facts["p_plain"] < 0.01
    assert "leave distillation out" in facts["warning"]
    assert any("labels alone" in record.getMessage() for record in caplog.records)


def test_several_teachers_and_images_without_labels(run: Run, digits: Digits):
    one = run(Train(model=nets.tiny_resnet, data=digits, epochs=2))
    two = run(Train(model=nets.tiny_resnet, data=digits, epochs=2, seed=1))
    others = Digits(size=16, test_count=300, calibration_count=32, seed=5)
    stage = Distill(
        student=nets.tiny_resnet,
        data=digits,
        teacher=["one", "two"],
        unlabelled=others,
        loss="dist",
        epochs=1,
    )
    assert stage.needs == {"teacher": "one", "teacher2": "two"}
    assert run(stage, teacher=one, teacher2=two).facts["top1_test"] > 20


def test_a_second_student_finds_what_the_teacher_said(run: Run, digits: Digits):
    teacher = run(Train(model=nets.tiny_resnet, data=digits, epochs=1))
    settings = {"student": nets.tiny_resnet, "data": digits, "epochs": 2, "cache": True, "views": 1}
    first = run(Distill(**settings, view_seed=3), teacher=teacher)
    (kept,) = first.path.parent.parent.glob("teachers/*")
    rows = (kept / "rows.f32").read_bytes()
    assert (kept / "filled.u8").read_bytes() == b"\x01" * len(digits.split("train"))
    again = run(Distill(**settings, view_seed=3, seed=9), teacher=teacher)
    live = run(Distill(**{**settings, "cache": False}, view_seed=3, seed=9), teacher=teacher)
    assert (kept / "rows.f32").read_bytes() == rows
    assert again.facts["train_loss"] == pytest.approx(live.facts["train_loss"], rel=1e-3)


def test_teachers_that_do_not_fit_are_refused(run: Run, digits: Digits):
    few = run(Train(model=partial(nets.tiny_resnet, num_classes=4), data=digits, epochs=0))
    with pytest.raises(ConfigError, match=r"\(10,\), the teacher \(4,\).*num_classes"):
        run(Distill(student=nets.tiny_resnet, data=digits, epochs=1), teacher=few)
    hint = Hint(student="layer9", teacher="layer3")
    with pytest.raises(ConfigError, match=r"student has no module called 'layer9'.*layer3"):
        run(Distill(student=nets.tiny_resnet, data=digits, epochs=1, loss=hint), teacher=few)
    with pytest.raises(ConfigError, match="validation=500"):
        run(Distill(student=nets.tiny_resnet, data=digits, check_plain=True), teacher=few)
