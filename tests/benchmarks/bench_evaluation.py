"""What scoring costs beside the bare forward, and what the numbers of a large test cost."""

import measure
import numpy as np
import pandas as pd
import torch
from bench_training import drawn
from matplotlib import pyplot as plt

from grefel_lib.environment import autocast, pick_device
from grefel_lib.faces import load_faces
from grefel_lib.grefel import build_model
from grefel_lib.labels import EMOTIONS
from grefel_lib.metrics import bootstrap_intervals, compute_metrics, confusion_counts
from grefel_lib.predict import predict, predict_each, to_input
from grefel_lib.report.figures import confusion_matrix
from grefel_lib.report.style import paper_style


def predict_against_forward(quick: bool) -> dict:
    """`predict` against the forward alone on ready inputs; two checkpoints in one pass."""
    small = {"backbone": "test_resnet", "image_size": 48} if quick else {}
    with drawn(300 if quick else 1500, **small) as config:
        faces = load_faces(config).split("train")
        device = pick_device("auto")
        memory = torch.channels_last if config.channels_last else torch.contiguous_format
        nets = {
            name: build_model(config, 8).to(device, memory_format=memory).eval()
            for name in ("one", "other")
        }
        one = nets["one"]
        cuts = range(config.batch_size, len(faces), config.batch_size)
        ready = [
            to_input(torch.from_numpy(faces.gather(chosen)), one, config, device)
            for chosen in np.array_split(np.arange(len(faces)), cuts)
        ]

        @torch.inference_mode()
        def bare() -> None:
            for images in ready:
                with autocast(config, device):
                    one(images)

        rounds = 1 if quick else 5
        single = measure.ratio(lambda: predict(one, faces, config), bare, rounds=rounds)
        both = measure.ratio(
            lambda: predict_each(nets, faces, config),
            lambda: [predict(net, faces, config) for net in nets.values()],
            rounds=rounds,
        )
    return {
        "ours": "predict", "other": "bare forward", "wanted": "at most 1.05", "faces": len(faces),
        "parts": {"predict": single, "both in one pass": both}, "backbone": config.backbone,
    }  # fmt: skip


def numbers_of_many(quick: bool) -> dict:
    """Metrics, bootstrap intervals and a confusion matrix of 100,000 predictions."""
    count = 2000 if quick else 100_000
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, len(EMOTIONS)))
    labels = rng.integers(len(EMOTIONS), size=count)
    logits[np.arange(count), labels] += 2
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    table = pd.DataFrame(probs, columns=[f"p_{name}" for name in EMOTIONS])
    names = np.asarray(EMOTIONS)
    table = table.assign(id=np.arange(count).astype(str), label=names[labels],
                         predicted=names[probs.argmax(axis=1)])  # fmt: skip

    def figure() -> None:
        with paper_style():
            fig, ax = plt.subplots()
            confusion_matrix(confusion_counts(table), EMOTIONS, ax)
            fig.canvas.draw()
            plt.close(fig)

    steps = {"metrics": lambda: compute_metrics(table), "figure": figure,
             "intervals": lambda: bootstrap_intervals(table)}  # fmt: skip
    rounds = [
        {name: measure.seconds(step) for name, step in steps.items()}
        for _ in range(1 if quick else 3)
    ]
    return {"ours": f"{count:,} predictions", "other": "10 s", "wanted": "below 1",
            "seconds": rounds, "ratios": [sum(each.values()) / 10 for each in rounds]}  # fmt: skip
