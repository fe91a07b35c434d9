"""Curves of the paper that no study file holds, block by block, read off its figures.

EfficientViT (Liu et al., CVPR 2023, arXiv 2305.07027). What a study compares with is in the study itself, `paper:`.
"""

HEAD_SIMILARITY: dict[str, tuple[float, ...]] = {
    "swin_t 1.25x": (48.3, 55.8, 62.7, 72.4, 56.9, 47.7, 49.9, 55.1, 66.6, 67.4, 85.6, 86.6),
    "swin_t 1.25x, head splits": (48.4, 49.0, 47.5, 62.3, 55.6, 49.8, 59.4, 62.2, 63.5, 67.1, 80.6, 82.2),
    "deit_t 1.25x": (61.4, 63.1, 63.7, 63.3, 59.7, 59.9, 62.7, 62.6, 61.6, 62.5, 61.6, 62.5),
    "deit_t 1.25x, head splits": (59.4, 61.1, 60.0, 61.7, 59.5, 60.5, 59.4, 60.4, 59.0, 60.7, 59.4, 61.2),
}
"""Fig. 4: similarity of heads in percent, blocks 1 to 12; +-0.3 for Swin-T, +-0.1 for DeiT-T."""

PRUNED_CHANNELS: dict[str, dict[str, tuple[float, ...]]] = {
    "swin_t": {
        "QK": (0.49, 0.53, 0.39, 0.74, 0.35, 0.24, 0.41, 0.07, 0.20, 0.05, 0.09, 0.12),
        "V": (1.00, 1.00, 1.00, 1.00, 0.99, 0.98, 0.98, 0.94, 0.98, 0.77, 0.84, 0.49),
        "FFN": (3.93, 3.84, 3.80, 3.53, 3.41, 2.86, 2.26, 2.00, 1.71, 1.32, 2.3, 1.31),
    },
}
"""Fig. 5: channels over the input's width after Taylor pruning, blocks 1 to 12; +-0.02. DeiT-T's curve is not known."""

PRUNED_TOP1: dict[str, tuple[float, float]] = {"swin_t": (79.1, 76.5), "deit_t": (67.0, 59.6)}
"""Top-1 on ImageNet in percent before and after pruning: Fig. 5, and Fig. 5 of the supplement for DeiT-T."""
