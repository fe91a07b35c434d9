"""What the paper claims, claim by claim, with its own numbers, and which results can judge each.

EfficientViT (Liu et al., CVPR 2023, arXiv 2305.07027). Only numbers that are printed there, or read off its figures
with the errors named in the studies. Curves block by block are in `paper.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VERDICTS = ("holds", "does not hold", "not separable at this budget", "not measured")
"""All that is said of a claim. Not separable: an interval holds equality, there is none as there is one seed, or seeds
differ."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence of the paper that measurements can contradict."""

    name: str
    source: str
    """Figure, table or section."""
    short: str
    """In a few words, for a row of a picture."""
    text: str
    paper: str
    """The paper's own evidence."""
    judge: str
    """Name in `JUDGES` of `report/reproduction/claim_verdicts.py`."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What the judge is to look at: its keyword arguments."""
    judged_by: tuple[tuple[str, ...], ...]
    """Folders of results, those that judge together side by side; those preferred first: real images."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Results that are no study's: what makes them."""

    model: str
    minutes: float
    """On 2 CPU cores."""


COMMANDS: Mapping[str, Command] = {
    "prune_deit_t": Command(model="deit_t", minutes=1.5),
    "prune_swin_t": Command(model="swin_t", minutes=2),
}
"""Folder of results -> the pruning of a stand-in that makes it."""

_SWAPS = {
    "2 sandwich -> Swin block": ("the Swin block instead of the sandwich", "loses accuracy", 68.3),
    "3 N = 2": ("two FFNs around each attention", "lose accuracy", 70.2),
    "4 N = 3": ("three FFNs around each attention", "lose accuracy", 65.7),
    "5 CGA -> MHSA": ("MHSA instead of cascaded group attention", "loses accuracy", 70.2),
    "6 cascade -> none": ("no cascade", "loses accuracy", 69.8),
    "7 QKV allocation -> Swin's": ("Swin's widths of Q, K and V", "lose accuracy", 69.9),
    "8 FFN ratio 2 -> 4": ("an FFN ratio of 4 instead of 2", "loses accuracy", 69.8),
    "9 depthwise -> none": ("no depthwise convolution before FFNs", "loses accuracy", 69.9),
    "10 BN -> LN": ("LayerNorm instead of BatchNorm", "loses accuracy", 70.4),
    "11 ReLU -> HSwish": ("HSwish instead of ReLU", "gains accuracy", 72.2),
}
"""Rows of Table 6 by their names in the studies, what the row changes, what it does to accuracy, top-1 in percent."""
_M4 = 71.3
"""Top-1 of EfficientViT-M4 in Table 6."""


_ROW8 = "8 FFN ratio 2 -> 4"
"""What the studies of the FFN ratio change as well."""


def _ablate(row: str) -> Claim:
    change, does, top1 = _SWAPS[row]
    rows: tuple[str, ...] = (row,)
    judged_by: tuple[tuple[str, ...], ...] = (("tiny_imagenet_m4_ablation",), ("m4_ablation",))
    if row == _ROW8:
        rows = (row, "base=efficientvit_m4, ffn_ratio=4")
        judged_by = (("tiny_imagenet_m4_ablation",), ("tiny_imagenet_ffn_ratio",), ("m4_ablation",), ("ffn_ratio",))
    return Claim(
        name=f"table6-row{row.split()[0]}",
        source=f"Table 6, row {row.split()[0]}",
        short=f"M4: {change} {does}",
        text=f"At EfficientViT-M4's speed, {change} {does}.",
        paper=f"top-1 {top1}% against {_M4}%: {top1 - _M4:+.1f} points",
        judge="row",
        about={"rows": rows},
        judged_by=judged_by,
    )


CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="memory-in-mhsa",
        source="Sec. 2.1, Fig. 2",
        short="memory-bound time is mostly MHSA's",
        text="In Swin-T and DeiT-T, memory-bound operations (reshaping, element-wise, copying, normalisation) sit "
        "mostly in MHSA, not in the FFN.",
        paper="runtime profiles on a V100; the text says so without a number",
        judge="memory_in_mhsa",
        about={"names": ("swin_t", "deit_t")},
        judged_by=(("runtime_profile",),),
    ),
    Claim(
        name="memory-level",
        source="Sec. 2.1, Fig. 2",
        short="44% of Swin-T-1.25x (20% MHSA) is memory-bound",
        text="Swin-T-1.25x with 20% MHSA spends 44.26% of its time in memory-bound operations.",
        paper="44.26% of the runtime on a V100",
        judge="memory_level",
        about={"row": "Swin-T-1.25x, 20% MHSA", "share": 0.4426},
        judged_by=(("subnetwork_profiles",),),
    ),
    Claim(
        name="memory-swin",
        source="Fig. 2, suppl. Fig. 1-4",
        short="Swin-T: fewer MHSA layers, less memory-bound",
        text="At equal speed, Swin-T subnetworks with fewer MHSA layers spend a smaller share of their time in "
        "memory-bound operations.",
        paper="profiles of subnetworks of 20 to 60% MHSA, at 1.25x and 1.5x",
        judge="memory_falls",
        about={"network": "swin_t", "ends": (0.2, 0.6)},
        judged_by=(("subnetwork_profiles",),),
    ),
    Claim(
        name="memory-deit",
        source="Fig. 2, suppl. Fig. 1-4",
        short="DeiT-T: fewer MHSA layers, less memory-bound",
        text="At equal speed, DeiT-T subnetworks with fewer MHSA layers spend a smaller share of their time in "
        "memory-bound operations.",
        paper="profiles of subnetworks of 20 to 60% MHSA, at 1.25x and 1.5x",
        judge="memory_falls",
        about={"network": "deit_t", "ends": (0.2, 0.6)},
        judged_by=(("subnetwork_profiles",), ("mhsa_ratio",)),
    ),
    Claim(
        name="ratio-deit",
        source="Fig. 3",
        short="DeiT-T: best at 20-40% MHSA",
        text="At equal speed, DeiT-T subnetworks are most accurate with 20-40% MHSA layers.",
        paper="top-1 at 1.25x: 63.0% at 40%, 61.9% at 50%, the best outside; at 1.5x 61.3 and 59.9% (read off, +-0.15)",
        judge="best",
        about={"knob": "mhsa_ratio", "inside": (0.2, 0.4)},
        judged_by=(("tiny_imagenet_deit",), ("mhsa_ratio",)),
    ),
    Claim(
        name="ratio-swin",
        source="Fig. 3",
        short="Swin-T: best at 20-40% MHSA",
        text="At equal speed, Swin-T subnetworks are most accurate with 20-40% MHSA layers.",
        paper="top-1 at 1.25x: 76.6% at 20%, 74.7% at 50%, the best outside; at 1.5x 75.9 and 71.9% (read off, +-0.15)",
        judge="best",
        about={"knob": "mhsa_ratio", "inside": (0.2, 0.4)},
        judged_by=(("tiny_imagenet_swin",),),
    ),
    Claim(
        name="ends-deit",
        source="Fig. 3",
        short="DeiT-T: 0% and 100% MHSA lose",
        text="At equal speed, DeiT-T subnetworks lose accuracy without any MHSA layer and with MHSA layers alone.",
        paper="top-1 at 1.25x: 46.8% at 0% and 38.5% at 100% against 63.0%; at 1.5x 45.1 and 36.4 against 61.3%",
        judge="ends_lose",
        about={"knob": "mhsa_ratio", "inside": (0.2, 0.4), "ends": (0, 1)},
        judged_by=(("tiny_imagenet_deit",), ("mhsa_ratio",)),
    ),
    Claim(
        name="ends-swin",
        source="Fig. 3",
        short="Swin-T: 0% and 100% MHSA lose",
        text="At equal speed, Swin-T subnetworks lose accuracy without any MHSA layer and with MHSA layers alone.",
        paper="top-1 at 1.25x: 67.2% at 0% and 66.3% at 100% against 76.6%; at 1.5x 65.6 and 64.6 against 75.9%",
        judge="ends_lose",
        about={"knob": "mhsa_ratio", "inside": (0.2, 0.4), "ends": (0, 1)},
        judged_by=(("tiny_imagenet_swin",),),
    ),
    Claim(
        name="splits-deit",
        source="Fig. 4",
        short="DeiT-T: head splits make most blocks less alike",
        text="Feeding each head its own split of the channels makes heads less alike in most blocks of DeiT-T-1.25x.",
        paper="lower similarity in 11 of 12 blocks",
        judge="splits",
        about={"family": "deit"},
        judged_by=(("tiny_imagenet_heads",), ("head_similarity",)),
    ),
    Claim(
        name="splits-swin",
        source="Fig. 4",
        short="Swin-T: head splits make most blocks less alike",
        text="Feeding each head its own split of the channels makes heads less alike in most blocks of Swin-T-1.25x.",
        paper="lower similarity in 8 of 12 blocks",
        judge="splits",
        about={"family": "swin"},
        judged_by=(("tiny_imagenet_heads",), ("head_similarity",)),
    ),
    Claim(
        name="alike-swin",
        source="Fig. 4",
        short="Swin-T: heads grow alike towards the last blocks",
        text="In Swin-T-1.25x, heads are more alike in the last third of the blocks than in the first.",
        paper="mean similarity 76.6% in blocks 9-12, 59.8% in blocks 1-4",
        judge="grow_alike",
        about={"family": "swin"},
        judged_by=(("tiny_imagenet_heads",), ("head_similarity",)),
    ),
    Claim(
        name="prune-swin-qk",
        source="Fig. 5",
        short="Swin-T pruned: Q and K trimmed most",
        text="Taylor pruning trims Q and K of Swin-T harder than V and the FFN.",
        paper="Q and K keep 5 to 74% of their channels, block by block; V 49 to 100%; top-1 79.1% before, 76.5% after",
        judge="pruning",
        about={"claim": "Q and K are trimmed most"},
        judged_by=(("tiny_imagenet_prune_swin_t",), ("prune_swin_t",)),
    ),
    Claim(
        name="prune-swin-v",
        source="Fig. 5",
        short="Swin-T pruned: V kept most",
        text="Taylor pruning keeps V of Swin-T near the embedding width, more than Q, K and the FFN.",
        paper="V keeps at least 94% of its width in the first 9 of 12 blocks, then 77, 84 and 49%",
        judge="pruning",
        about={"claim": "V is kept most"},
        judged_by=(("tiny_imagenet_prune_swin_t",), ("prune_swin_t",)),
    ),
    Claim(
        name="prune-swin-last",
        source="Fig. 5",
        short="Swin-T pruned: last blocks trimmed most",
        text="Taylor pruning trims the last blocks of Swin-T most.",
        paper="left in block 1: 49% of Q and K, all of V, an FFN ratio of 3.93 of 4; in block 12: 12%, 49%, 1.31",
        judge="pruning",
        about={"claim": "the last third of the blocks is trimmed most"},
        judged_by=(("tiny_imagenet_prune_swin_t",), ("prune_swin_t",)),
    ),
    Claim(
        name="prune-deit-qk",
        source="Suppl. Fig. 5",
        short="DeiT-T pruned: Q and K trimmed most",
        text="Taylor pruning trims Q and K of DeiT-T harder than V and the FFN.",
        paper="Q and K are largely trimmed; top-1 67.0% before, 59.6% after",
        judge="pruning",
        about={"claim": "Q and K are trimmed most"},
        judged_by=(("tiny_imagenet_prune_deit_t",), ("prune_deit_t",)),
    ),
    Claim(
        name="prune-deit-v",
        source="Suppl. Fig. 5",
        short="DeiT-T pruned: V kept most",
        text="Taylor pruning keeps V of DeiT-T near the embedding width, more than Q, K and the FFN.",
        paper="V stays close to the embedding width",
        judge="pruning",
        about={"claim": "V is kept most"},
        judged_by=(("tiny_imagenet_prune_deit_t",), ("prune_deit_t",)),
    ),
    Claim(
        name="prune-ffn",
        source="Suppl. Fig. 5",
        short="Pruned: FFN trimmed more in Swin-T than in DeiT-T",
        text="Taylor pruning trims the FFN more in Swin-T than in DeiT-T.",
        paper="Swin-T's FFN ratio falls from 4 to 1.3-3.9, block by block; DeiT-T's is kept more than its MHSA",
        judge="pruning",
        about={"claim": "the FFN is trimmed more in Swin-T than in DeiT-T"},
        judged_by=(
            ("tiny_imagenet_prune_swin_t", "tiny_imagenet_prune_deit_t"),
            ("prune_swin_t", "prune_deit_t"),
        ),
    ),
    Claim(
        name="ffn-ratio",
        source="Sec. 2.3",
        short="DeiT-T, Swin-T: an FFN ratio below 4 is better",
        text="At equal speed, DeiT-T and Swin-T are more accurate with FFNs that expand by less than 4.",
        paper="concluded from pruning; no accuracy of these networks is given",
        judge="best",
        about={"knob": "ffn_ratio", "inside": (1, 2, 3), "bases": ("deit_t", "swin_t")},
        judged_by=(("tiny_imagenet_ffn_ratio",), ("ffn_ratio",)),
    ),
    *(_ablate(row) for row in _SWAPS),
    Claim(
        name="table6-order",
        source="Table 6",
        short="M4: the order of all eleven rows",
        text="The rows of Table 6 stand in the paper's order of accuracy.",
        paper="from HSwish, 72.2%, and M4, 71.3%, down to N = 3, 65.7%",
        judge="order",
        judged_by=(("tiny_imagenet_m4_ablation",), ("m4_ablation",)),
    ),
    Claim(
        name="qk-best",
        source="Fig. 7",
        short="M4: QK dimension 16 is best",
        text="EfficientViT-M4 is most accurate with 16 query and key channels per head.",
        paper="top-1 71.30% at 16, 71.14% at 64, the best other; 70.67% at 4 (read off, +-0.02)",
        judge="best",
        about={"knob": "qk_dim", "inside": (16,)},
        judged_by=(("tiny_imagenet_qk_dim",), ("qk_dim",)),
    ),
    Claim(
        name="qk-speed",
        source="Fig. 7",
        short="M4: wider QK is slower",
        text="EfficientViT-M4's throughput falls as its QK dimension widens from 4 to 64.",
        paper="16300 images/s at 4, 14210 at 64 (V100; read off, +-50): 0.87x",
        judge="slower",
        about={"knob": "qk_dim"},
        judged_by=(("tiny_imagenet_qk_dim",), ("qk_dim",)),
    ),
    Claim(
        name="v-rises",
        source="Fig. 7",
        short="M4: accuracy rises with the V ratio",
        text="EfficientViT-M4's accuracy rises with the V ratio, from 0.4 to 1.2.",
        paper="top-1 70.30, 70.61, 70.72, 71.30 and 71.41% (read off, +-0.02)",
        judge="rises",
        about={"knob": "v_ratio"},
        judged_by=(("tiny_imagenet_v_ratio",), ("v_ratio",)),
    ),
    Claim(
        name="v-speed",
        source="Fig. 7",
        short="M4: wider V is slower",
        text="EfficientViT-M4's throughput falls as its V ratio grows from 0.4 to 1.2.",
        paper="16710 images/s at 0.4, 15280 at 1.2 (V100; read off, +-50): 0.91x",
        judge="slower",
        about={"knob": "v_ratio"},
        judged_by=(("tiny_imagenet_v_ratio",), ("v_ratio",)),
    ),
    Claim(
        name="sizes-rise",
        source="Table 1",
        short="M0 to M5: accuracy rises",
        text="From EfficientViT-M0 to M5, accuracy rises.",
        paper="top-1 63.2, 68.4, 70.8, 73.4, 74.3 and 77.1%",
        judge="rises",
        judged_by=(("tiny_imagenet_efficientvit",),),
    ),
    Claim(
        name="sizes-speed",
        source="Table 1",
        short="M0 to M5: throughput falls",
        text="From EfficientViT-M0 to M5, throughput falls.",
        paper="27644 down to 10621 images/s on a V100, 228.4 down to 56.8 on one thread of a Xeon",
        judge="slower",
        judged_by=(("tiny_imagenet_efficientvit",),),
    ),
)
"""In the order of the page."""
