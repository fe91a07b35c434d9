"""Reaching a speed: the search for the share, with a speed that is a known function of it, and the last word."""

from dataclasses import replace

import pytest
from fake_records import make_throughput
from small_pruning import SETTINGS, make_network

from evitlab.desk import pruning_speed
from evitlab.desk.pruning_speed import ORIGINAL, PRUNED, PUBLISHED, Aim, Timer, check_speed
from evitlab.models.attention import Attend
from evitlab.problems import UserError


def make_timer(**settings):
    network = make_network()
    return Timer(original=network, settings=replace(SETTINGS, **settings), device="cpu", seed=0, smoke=True)


class Pretended(Aim):
    """An aim whose plans are shares and whose speeds are a function of them."""

    def _measure(self, share):
        self.probes.append(share)
        return self.speed(share)


def aim_at(target, speed, *, lowest=0.0, highest=1.0):
    def plan(share):
        if share < lowest:
            raise UserError("floors")
        return share

    aim = Pretended(timer=make_timer(tolerance=0.02), target=target)
    aim.speed = speed
    return aim, aim.find_share(plan, highest=highest)


@pytest.mark.parametrize("target", [1.1, 1.25, 1.8])
@pytest.mark.parametrize(
    "speed",
    [lambda share: 1 / share, lambda share: 1 / (0.4 + 0.6 * share), lambda share: 2 - share**3],
    ids=["in proportion", "with overhead", "curved"],
)
def test_a_share_is_found_where_the_speed_is_as_asked(speed, target):
    if target > speed(0.001):
        return
    aim, share = aim_at(target, speed)
    assert speed(share) == pytest.approx(target, rel=0.01)
    assert len(aim.probes) <= pruning_speed.MAX_PROBES


def test_a_speed_in_steps_is_met_as_near_as_it_goes():
    _, share = aim_at(1.5, lambda share: 1.0 if share > 0.7 else 1.45 if share > 0.3 else 3.0)
    assert 0.3 < share <= 0.7


def test_floors_bound_the_search():
    _, share = aim_at(1.25, lambda share: 1 / (0.5 + 0.5 * share), lowest=0.55)
    assert share == pytest.approx(0.6, abs=0.02)
    with pytest.raises(UserError, match=r"throughput=3 cannot be reached"):
        aim_at(3.0, lambda share: 1 / share, lowest=1.5)


def test_both_networks_run_attention_explicitly_and_come_back_as_they_were():
    timer, pruned = make_timer(), make_network(seed=1)
    found = timer.time_beside(pruned, seconds=0.05, published=True)
    assert set(found) == {ORIGINAL, PRUNED, PUBLISHED}
    assert [found[name].attention_path for name in (ORIGINAL, PRUNED, PUBLISHED)] == ["explicit", "explicit", "fused"]
    assert found[PRUNED].reference == ORIGINAL
    for network in (timer.original, pruned):
        assert {module.path for module in network.modules() if isinstance(module, Attend)} == {"fused"}


def test_a_target_that_the_last_timing_denies_fails_with_what_was_reached():
    timing = make_throughput(60.0, ratio=1.25)  # 1.23 to 1.28
    check_speed({PRUNED: timing}, 1.25, 0.01)
    check_speed({PRUNED: timing}, 1.26, 0.01)
    with pytest.raises(
        UserError, match=r"throughput=1.4 was missed by more than 1%: 1.250 is .*1.230-1.280.*batch_size"
    ):
        check_speed({PRUNED: timing}, 1.4, 0.01)
    with pytest.raises(UserError, match=r"throughput=1\.2 was missed"):
        check_speed({PRUNED: timing}, 1.2, 0.01)
    with pytest.raises(UserError, match=r"throughput=1\.27 was missed .* too little is known of it"):
        check_speed({PRUNED: timing}, 1.27, 0.01)
