"""The predictions of a checkpoint: their loss and error, the confusion matrix and the worst mistakes."""

import base64
import math

import torch
from torch.nn import functional as F

from worker.architecture import NUM_CLASSES
from worker.checkpoints.checkpoint import Checkpoint, network_of
from worker.data.batches import EVAL_BATCH_SIZE, TrainingData
from worker.data.datasets import ImageDataset
from worker.evaluation_spec import EvaluationSpec
from worker.events import Evaluated, Mistake
from worker.numerics.precision import autocast, numeric_settings
from worker.training import precise_statistics
from worker.training.environment import device_name

MOST_MISTAKES = 12


def evaluate_checkpoint(
    checkpoint: Checkpoint, dataset: ImageDataset, asked: EvaluationSpec, device: torch.device
) -> Evaluated:
    """Evaluate the weights of a checkpoint.

    Without any choice in `asked`, loss and error are those that the training reported with the checkpoint, bit for bit
    on a CPU with the same number of threads.

    Args:
        checkpoint: The checkpoint.
        dataset: The dataset of its training.
        asked: Which images, in which precision, and by which statistics.
        device: Device to evaluate on.

    Raises:
        CheckpointError: If the checkpoint is damaged.
        ValueError: If the split is the holdout, and the training had none.
    """
    spec, model = network_of(checkpoint)
    split = asked.split or ("holdout" if spec.dataset.holdout else "test")
    precision = asked.precision or checkpoint.precision or "float32"
    model.to(device)
    data = TrainingData(spec, dataset, device=device)
    counts = torch.zeros(NUM_CLASSES * NUM_CLASSES, dtype=torch.int64, device=device)
    losses, worst = [], []
    with numeric_settings(spec, device), torch.inference_mode():
        if asked.precise_statistics:
            epoch = max(1, checkpoint.epoch)
            precise_statistics.estimate(model, spec, data, asked.precise_statistics, epoch=epoch, precision=precision)
        model.train(asked.batch_statistics is not None)
        for images, labels, positions in data.plain_batches(split, asked.batch_statistics or EVAL_BATCH_SIZE):
            with autocast(precision, device):
                logits = model(images).float()
            predicted = logits.argmax(1)
            losses.append(F.cross_entropy(logits, labels, reduction="sum").double())
            counts += torch.bincount(labels * NUM_CLASSES + predicted, minlength=len(counts))
            wrong = torch.nonzero(predicted != labels)[:, 0]
            confidence, order = logits[wrong].softmax(1).amax(1).sort(descending=True, stable=True)
            kept = wrong[order[:MOST_MISTAKES]]
            found = torch.stack([part[kept].double() for part in (positions, labels, predicted)]).tolist()
            worst += list(zip(confidence[:MOST_MISTAKES].tolist(), *found, strict=True))
            worst = sorted(worst, key=lambda one: -one[0])[:MOST_MISTAKES]
        loss = math.fsum(torch.stack(losses).tolist())
    confusion = counts.view(NUM_CLASSES, NUM_CLASSES)
    images_seen = int(confusion.sum())
    return Evaluated(
        split=split,
        precision=precision,
        batch_statistics=asked.batch_statistics,
        precise_statistics=asked.precise_statistics,
        device=device_name(device),
        images=images_seen,
        loss=loss / images_seen if math.isfinite(loss) else None,
        error=(images_seen - int(confusion.diagonal().sum())) / images_seen,
        confusion=confusion.tolist(),
        mistakes=[
            Mistake(
                index=int(position),
                label=int(label),
                predicted=int(guess),
                confidence=confidence if math.isfinite(confidence) else 0.0,
                pixels=base64.b64encode(
                    data.pixels(split, int(position)).permute(1, 2, 0).contiguous().cpu().numpy().tobytes()
                ).decode(),
            )
            for confidence, position, label, guess in worst
        ],
    )
