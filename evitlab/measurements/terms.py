"""What all measurements share: precisions, and how strictly they are read.

A measurement is one dataclass for a task's numbers, in base units only: integer counts and bytes, float seconds,
shares in 0..1. Nothing is rounded here; tables round.
"""

from typing import Literal

from pydantic import ConfigDict

Precision = Literal["fp32", "bf16", "fp16"]
STRICT = ConfigDict(extra="forbid", ser_json_inf_nan="strings")
