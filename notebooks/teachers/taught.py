"""Train the `mobile` profile with a teacher that sees the same augmented, mixed faces.

    python notebooks/teachers/taught.py FACENET_KERAS.h5 data_dir=DATA run_name=taught-0 seed=0

First run facenet.py: the teacher is its run facenet-0, or the one that teacher=RUN names. With
`--teacher`, predictions made once of the plain faces are the targets; here the teacher is asked
anew about every batch. Settings follow as name=value; teacher_precision=bf16 is faster where
`grefel doctor` says so.

Source: Beyer et al., Knowledge distillation: A good teacher is patient and consistent, 2022.
"""

import sys

import torch
import torch.nn.functional as F
from facenet import FaceNet
from torch import Tensor, nn

from grefel_lib import load_faces, start_run
from grefel_lib.config import Config
from grefel_lib.fit import fit
from grefel_lib.grefel import Output, build_model
from grefel_lib.losses import total_loss
from grefel_lib.restore import Trained, load_model
from grefel_lib.run import open_run

SHARE = 0.8  # of the teacher in the targets


class Lesson:
    """The student's batch as the teacher judges it, and the loss against that."""

    def __init__(self, student: nn.Module, teacher: Trained, *, bf16: bool) -> None:
        self.student, self.teacher, self.bf16 = student, teacher.model, bf16
        self.size = teacher.config.image_size
        self.images: Tensor | None = None
        student.register_forward_pre_hook(self.keep)

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Remember the images of a training batch."""
        if module.training:
            [self.images] = inputs

    @torch.inference_mode()
    def judged(self) -> Tensor:
        """The teacher's distribution for the images (B, 3, S, S): (B, C)."""
        mine, other = (
            [torch.tensor(values).view(3, 1, 1) for values in (net.mean, net.std)]
            for net in (self.student, self.teacher)
        )
        images = F.interpolate(self.images, size=self.size, mode="bilinear", antialias=True)
        images = ((images * mine[1] + mine[0]) - other[0]) / other[1]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return self.teacher(images).log_probs.exp()

    def loss(
        self,
        output: Output,
        targets: Tensor,
        config: Config,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """`total_loss` against a mixture of the targets (B, C) and the teacher's answer."""
        taught = self.judged().clone()  # no longer an inference tensor
        return total_loss(output, (1 - SHARE) * targets + SHARE * taught, config, class_weights)


def main(path: str, *settings: str) -> None:
    """Train, and print the history."""
    given = {"profile": "mobile", "variant": "taught", "dataset": "ferplus", "run_name": "taught-0"}
    given |= dict(setting.split("=") for setting in settings)
    name, precision = given.pop("teacher", "facenet-0"), given.pop("teacher_precision", "fp32")
    config = Config.resolve(given)
    faces = load_faces(config)
    teacher = FaceNet(path, num_classes=len(faces.class_names))
    teacher = load_model(open_run(name, config.output_dir), net=teacher, device="cpu")
    run, student = start_run(config, faces.info), build_model(config, len(faces.class_names))
    lesson = Lesson(student, teacher, bf16=precision == "bf16")
    print(fit(faces, run, net=student, loss=lesson.loss, say=print).to_string())


if __name__ == "__main__":
    main(*sys.argv[1:])
