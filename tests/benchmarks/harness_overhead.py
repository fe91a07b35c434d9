"""What timing costs: seconds that the harness adds to a round of calls of a model that does nothing.

Run it by itself: `python tests/benchmarks/harness_overhead.py`. Whatever the model, a round has the same overhead and
lasts at least `REPEAT_SECONDS`, so the share printed is the largest that any model sees.
"""

from dataclasses import replace
from statistics import median
from time import perf_counter

import torch
from torch import nn

from evitlab.measure import rounds, throughput
from evitlab.settings import Execution

CALLS, ROUNDS = 50, 400


def measure_overhead() -> float:
    """Seconds that a round of `CALLS` calls takes longer than a bare loop of them."""
    prepared = throughput.prepare(nn.Identity(), execution=Execution(), device=torch.device("cpu"))
    images = prepared.draw_images(batch_size=8, image_size=64, seed=0)
    bare, ours = [], []
    with torch.inference_mode():
        contender = replace(rounds.make_contender(prepared, images, warmup_s=0.1), calls_per_repeat=CALLS)
        for _ in range(ROUNDS):
            start = perf_counter()
            for _ in range(CALLS):
                prepared.model(images)
            middle = perf_counter()
            rounds.time_rounds({"model": contender}, judge=lambda *_: (1.0, "rounds"), seed=0)
            bare.append(middle - start)
            ours.append(perf_counter() - middle)
    return median(ours) - median(bare)


if __name__ == "__main__":
    added = measure_overhead()
    print(f"{added * 1e6:.1f} us a round of {CALLS} calls; at most {added / rounds.REPEAT_SECONDS:.4%} of any round")
