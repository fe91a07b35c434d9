"""The dictionary of columns: every column of `evitlab.load`, and so of every study's table."""

from collections.abc import Mapping

COLUMNS: dict[str, tuple[str, str, str]] = {
    "study": ("text", "folder of results: a study's name, or the command and its models", "folder"),
    "variant": ("text", "name in the study, or the model that a command was given", "record"),
    "knob_*": ("any", "one column a knob: the variant's changes to the base; empty where it has none", "record"),
    "width": ("count", "embedding channels of the first stage, after matching to a speed", "config"),
    "macs": ("count", 'multiply-accumulates of one image; papers print them as "FLOPs"', "macs"),
    "param_count": ("count", "trainable scalars with BatchNorm folded", "macs"),
    "infer_img_size": ("text", "height x width in pixels of the speed measurements", "throughput"),
    "infer_batch_size": ("count", "images a forward pass in the speed measurements", "throughput"),
    "infer_samples_per_sec": (
        "images/s", "batch size over the median repeat; under the protocol cream, the mean", "throughput",
    ),
    "infer_samples_per_sec_low": ("images/s", "bootstrap 95% interval of that", "throughput"),
    "infer_samples_per_sec_high": ("images/s", "its upper end", "throughput"),
    "latency_s": ("s", "median forward call, of a whole batch", "throughput"),
    "latency_p90_s": ("s", "90% of the calls stay below; empty for fewer than 64 calls", "throughput"),
    "latency_p99_s": ("s", "99% of the calls stay below; empty for fewer than 662 calls", "throughput"),
    "speed_ratio": (
        "ratio", "speed over the reference's, timed in turn with it; 1 for a reference by definition", "throughput",
    ),
    "speed_ratio_low": ("ratio", "bootstrap 95% interval; empty for a reference", "throughput"),
    "speed_ratio_high": ("ratio", "its upper end", "throughput"),
    "speed_reference": ("text", "row that speed_ratio is to", "throughput"),
    "match_reached": (
        "flag", "whether the speed after rescaling, as timed last, is within the tolerance of the target", "match",
    ),
    "best_batch_size": ("count", "batch size with the most images per second", "batch_curve"),
    "overhead_bound_until": (
        "count", "largest batch that takes no longer than one image; empty where there is none", "batch_curve",
    ),
    "self_test_error": ("ratio", "median of |ratio - 1| of one model under two names", "self_test"),
    "memory_bound_share": (
        "share", "operator time in memory-bound operators: copies, element-wise, norms", "operators",
    ),
    "memory_bound_share_low": ("share", "bootstrap 95% interval over the profiled passes", "operators"),
    "memory_bound_share_high": ("share", "its upper end", "operators"),
    "roofline_memory_bound_share": (
        "share", "operator time in operators that this machine's roofline calls so", "operators",
    ),
    "top1": ("share", "held-out top-1 accuracy, mean over the seeds; of a pruned network the last", "train"),
    "top1_low": ("share", "95% interval, of the kind that top1_interval names; empty for one seed", "train"),
    "top1_high": ("share", "its upper end", "train"),
    "top1_interval": (
        "text", "seeds: Student t over trainings; images: Wilson's, another draw of images, not another training",
        "train",
    ),
    "top1_seeds": ("count", "trainings behind top1, one a seed", "train"),
    "top1_values": ("list of shares", "top1 of every seed, in the order of the seeds", "train"),
    "train_seeds": ("list of counts", "those seeds", "train"),
    "top5": ("share", "held-out top-5 accuracy, mean over the seeds", "train"),
    "macro_auc": ("share", "held-out one-vs-rest AUC, mean over classes, then over the seeds", "evaluate"),
    "ece": ("share", "held-out expected calibration error in 15 bins, mean over the seeds", "evaluate"),
    "train_data": ("text", "data set of the accuracies", "train"),
    "num_classes": ("count", "its classes", "train"),
    "train_images": ("count", "different images to train on", "train"),
    "val_images": ("count", "images to judge by", "train"),
    "train_steps": ("count", "steps of each training", "train"),
    "train_batch_size": ("count", "images a step", "train"),
    "train_seconds": ("s", "in the training loop, evaluation left out, mean over the seeds", "train"),
    "proxy_img_size": ("text", "pixels of the network trained, where it is not the network timed", "train"),
    "proxy_width": ("count", "channels of its first stage", "train"),
    "head_similarity": (
        "share", "largest cosine of any two heads' features, mean over images, blocks and seeds", "heads",
    ),
    "head_similarity_untrained": ("share", "the same of the network untrained", "heads"),
    "pruning_target": ("text", "what it was pruned to: macs, params or throughput, over the whole network's", "prune"),
    "pruning_reached": ("ratio", "the same quantity as reached, mean over the seeds", "prune"),
    "top1_pruned": ("share", "top-1 right after the last cut, before fine-tuning, mean over the seeds", "prune"),
    "top1_control": ("share", "top-1 of an untrained network scored and cut alike, mean over the seeds", "prune"),
    "paper_top1": ("share", "what the source of the study reports, on its own data set; not comparable", "study"),
    "paper_infer_samples_per_sec": ("images/s", "what it reports, on its own machine; not comparable", "study"),
    "compare_to": ("text", "variant that the study compares this one's accuracy with", "study"),
    "missing": ("text", "tasks without a measurement, and why", "record"),
    "machine": ("text", "a hash that tells machines apart", "environment"),
    "device": ("text", "torch's name of it", "environment"),
    "device_name": ("text", "model of the processor or accelerator", "environment"),
    "threads": ("count", "of torch's operators, read back; of the timing where there is one", "environment"),
    "allocator": ("text", "how the C allocator was set up", "environment"),
    "torch": ("text", "version", "environment"),
    "timm": ("text", "version", "environment"),
    "python": ("text", "version", "environment"),
    "evitlab": ("text", "version", "environment"),
    "git_commit": ("text", "of the checkout of evitlab that ran; empty where it was none", "environment"),
    "protocol": ("text", "evitlab, or cream: the official speed test's", "throughput"),
    "precision": ("text", "fp32, or the lower one of autocast", "throughput"),
    "memory_format": ("text", "contiguous or channels_last", "throughput"),
    "folded": ("flag", "whether BatchNorm was folded, or there was none", "throughput"),
    "mode": ("text", "eager, compiled or traced", "throughput"),
    "linear_library": ("text", "what ran the linear layers", "throughput"),
    "attention_path": ("text", "fused, explicit or both; not known for networks not built here", "throughput"),
    "rounds": ("count", "repeats of each model of its run", "throughput"),
    "stopped_by": ("text", "half-width: every ratio was known well enough; else the limit that ended it", "throughput"),
    "smoke": ("flag", "made by --smoke: tiny sizes, no meaning", "record"),
    "start": ("text", "UTC, of the first of its measurements", "record"),
    "seconds": ("s", "wall time of all its measurements together", "record"),
}  # fmt: skip
"""Column -> (unit, meaning, source). Names are timm's where timm has one. Shares are 0..1, everything in base units.

The source is the task whose measurement it is of, or the part of a record, or the study's file.
"""

DTYPES = {
    "count": "Int64",
    "images/s": "float64",
    "s": "float64",
    "ratio": "float64",
    "share": "float64",
    "flag": "boolean",
}
"""Unit -> pandas' type, where it is not left to the values."""


def column_types(columns: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """pandas' type of each column that has one, from a dictionary whose entries begin with the unit."""
    return {name: DTYPES[about[0]] for name, about in columns.items() if about[0] in DTYPES}
