"""A teacher that sees the student's own batches (notebooks/teachers/taught.py)."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from grefel_lib.config import PROJECT_ROOT, Config
from grefel_lib.grefel import Output
from grefel_lib.losses import total_loss


@pytest.fixture
def taught(monkeypatch):
    """The script, without the package that reads FaceNet's weights."""
    stub = ModuleType("facenet")
    stub.FaceNet = None
    monkeypatch.setitem(sys.modules, "facenet", stub)
    place = PROJECT_ROOT / "notebooks/teachers/taught.py"
    spec = importlib.util.spec_from_file_location("taught", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Net(nn.Module):
    """Says the class by the brightness of the face, and keeps what it was shown."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std, self.seen = (mean,) * 3, (std,) * 3, None

    def forward(self, images):
        self.seen = images
        bright = images.mean(dim=(1, 2, 3))
        return Output(torch.log_softmax(torch.stack([bright, -bright], dim=1), dim=1))


@pytest.fixture
def lesson(taught):
    student, teacher = Net(0.4, 0.2), Net(0.5, 0.25)
    trained = SimpleNamespace(model=teacher, config=SimpleNamespace(image_size=12))
    return taught.Lesson(student, trained, bf16=False)


def test_the_teacher_sees_the_batch_in_its_own_size_and_normalisation(lesson):
    faces = torch.rand(4, 1, 1, 1).expand(4, 3, 8, 8)  # even grey, in 0..1
    lesson.student.train()((faces - 0.4) / 0.2)
    lesson.judged()
    assert lesson.teacher.seen.shape == (4, 3, 12, 12)
    torch.testing.assert_close(lesson.teacher.seen[..., 0, 0], (faces[..., 0, 0] - 0.5) / 0.25)
    lesson.student.eval()(torch.zeros(2, 3, 8, 8))  # validation is no lesson
    assert len(lesson.judged()) == 4


def test_the_targets_are_shared_between_labels_and_teacher(lesson, taught):
    config = Config(head="linear", label_smoothing=0.0)
    images = torch.randn(4, 3, 8, 8)
    output = lesson.student.train()(images)
    targets = torch.eye(2)[[0, 1, 1, 0]]
    expected = (1 - taught.SHARE) * targets + taught.SHARE * lesson.judged()
    found = lesson.loss(output, targets, config)
    torch.testing.assert_close(found["loss"], total_loss(output, expected, config)["loss"])
    assert found["loss"] != total_loss(output, targets, config)["loss"]
