"""What a record of each task holds."""

from evitlab.measurements.accuracy import Evaluation, TrainResult
from evitlab.measurements.heads import HeadSimilarity
from evitlab.measurements.macs import MacCount
from evitlab.measurements.profile import OperatorProfile, Peaks
from evitlab.measurements.pruning import Pruning
from evitlab.measurements.speed import BatchCurve, Match, SelfTest, Throughput

MEASUREMENTS: dict[str, type] = {
    "macs": MacCount,
    "throughput": Throughput,
    "operators": OperatorProfile,
    "match": Match,
    "train": TrainResult,
    "peaks": Peaks,
    "batch_curve": BatchCurve,
    "self_test": SelfTest,
    "evaluate": Evaluation,
    "heads": HeadSimilarity,
    "prune": Pruning,
}
