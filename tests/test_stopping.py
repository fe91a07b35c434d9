"""Ctrl-C and SIGTERM: noted once, at once the second time."""

import os
import signal

import pytest

from evitlab.stopping import Stopped, notice_stops


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_the_first_waits_for_a_good_moment_and_the_second_does_not(number, said):
    before = signal.getsignal(number)
    with notice_stops() as stops:
        stops.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Stopped, match=f"^{said}$"):
            stops.check()
        with pytest.raises(Stopped, match="asked twice"):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
