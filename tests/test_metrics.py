"""Accuracy against scikit-learn."""

import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from evitlab.train.metrics import score


def test_accuracy_equals_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 12, generator=generator)
    labels = torch.randint(12, (200,), generator=generator)
    probabilities = logits.double().softmax(1).numpy()
    accuracy = score(logits, labels)
    every = list(range(12))
    assert accuracy.top1 == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert accuracy.top5 == pytest.approx(top_k_accuracy_score(labels, probabilities, k=5, labels=every))
    assert accuracy.loss == pytest.approx(log_loss(labels, probabilities, labels=every))
    assert 0.0 < accuracy.top1 < accuracy.top5 < 1.0


def test_accuracy_of_a_case_by_hand():
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1]] * 4)
    accuracy = score(logits, torch.tensor([0, 1, 4, 5]))  # ranks 1, 2, 5 and 6
    assert (accuracy.top1, accuracy.top5) == (0.25, 0.75)


def test_top5_of_fewer_than_five_classes_is_one():
    accuracy = score(torch.tensor([[1.0, 0, 0], [0, 1, 2]]), torch.tensor([0, 0]))
    assert (accuracy.top1, accuracy.top5) == (0.5, 1.0)
