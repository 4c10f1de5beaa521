"""What a network that is trained end to end learns to say: classes or numbers."""

from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional

from engram import training


class Classes:
    """Cross-entropy of weighted classes.

    Attributes:
        scale: what predictions need beside the network, by name.
    """

    scale: ClassVar[dict] = {}

    def __init__(self, y, fold, subjects, k, options, device):
        weights = training.class_weights(y[fold.train], k) if options.class_weights else np.ones(k)
        self.y, self.k = torch.as_tensor(y, device=device), k
        self.weights = torch.as_tensor(weights, dtype=torch.float32, device=device)

    def loss(self, found, rows):
        y = self.y[torch.as_tensor(rows, device=self.y.device)]
        return (self.weights[y] * functional.cross_entropy(found, y, reduction="none")).mean()

    def validation(self, found, rows):
        y = self.y[torch.as_tensor(rows, device=self.y.device)].cpu()
        weights = self.weights.cpu()[y]
        losses = functional.cross_entropy(found, y, reduction="none")
        loss = float((weights * losses).sum() / weights.sum().clamp(min=1e-12))
        counts = training.confusion(y.numpy(), found.argmax(1).numpy(), self.k)
        scores = {f"validation_{name}": float(v) for name, v in training.metrics(counts).items()}
        score = float(training.balanced_accuracy(counts))
        return {"score": -loss, "validation_loss": loss, "validation_score": score, **scores}

    def predictions(self, found):
        return found.softmax(1).numpy()


class Numbers:
    """Squared error of standardised numbers; every subject weighs the same.

    Attributes:
        scale: mean and standard deviation of the training rows.
    """

    def __init__(self, y, fold, subjects, k, options, device):
        self.y, self.subjects = y, subjects
        weights = training.subject_weights(subjects[fold.train])
        self.mean = np.average(y[fold.train], weights=weights)
        variance = np.average((y[fold.train] - self.mean) ** 2, weights=weights)
        self.sd = float(np.sqrt(variance)) or 1.0
        self.scale = {"target_mean": np.float64(self.mean), "target_sd": np.float64(self.sd)}
        every = np.zeros(len(y), np.float32)
        every[fold.train] = weights
        self.weights = torch.as_tensor(every, device=device)
        standard = ((y - self.mean) / self.sd).astype(np.float32)
        self.standard = torch.as_tensor(standard, device=device)

    def loss(self, found, rows):
        at = torch.as_tensor(rows, device=self.standard.device)
        return (self.weights[at] * (found[:, 0] - self.standard[at]).square()).mean()

    def validation(self, found, rows):
        weights = training.subject_weights(self.subjects[rows])
        predicted = self.predictions(found)[:, 0]
        loss = float(np.average(((predicted - self.y[rows]) / self.sd) ** 2, weights=weights))
        score = training.explained(self.y[rows], predicted, self.mean, weights)
        return {"score": -loss, "validation_loss": loss, "validation_score": score}

    def predictions(self, found):
        return found.double().numpy() * self.sd + self.mean
