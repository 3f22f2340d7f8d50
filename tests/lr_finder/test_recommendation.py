"""The rule gives the right rate for curves whose answer is known."""

import math

import numpy as np
import pytest

from minilearner.lr_finder.recommendation import Calibration, is_settled, recommend

LRS = 10 ** np.linspace(-7, 1, 100)
X = np.log10(LRS)
NONE = np.empty(0)
# Flat to 1e-4, in a straight line from 2 to 1 at 1e-2, and up again as steeply.
VALLEY = np.where(X < -4, 2.0, np.where(X < -2, 2 - (X + 4) / 2, 1 + (X + 2) / 2))
NOISE = 0.05 * np.random.default_rng(0).normal(size=100)


def advice(fixed, losses=None, **options):
    return recommend(LRS, fixed + NOISE if losses is None else losses, fixed, **options)


def test_the_rate_lies_between_the_middle_of_the_valley_and_the_wall():
    found = advice(VALLEY, adaptive=True)
    assert np.log10(found.turns["turn"]) == pytest.approx(-2, abs=0.05)
    assert np.log10(found.lr / 0.65) == pytest.approx((-2 - 1.66) / 2, abs=0.03)  # the geometric mean
    assert np.log10(found.bounds) == pytest.approx([-3.9, -2], abs=0.1)
    assert found.interval[0] < found.lr < found.interval[1] < 0.1
    assert "was lowest at 1.0e-02, and rose from 2.2e-02 on" in found.reason
    start = "start from 1.5e-02, between the middle of this dip and the rise"
    assert f"{start}, times 0.65 for adaptive steps and batches of 64 items" in found.reason
    assert "moved toward" not in found.reason


def test_steps_of_fixed_size_and_nets_without_norm_layers_get_a_lower_share():
    adaptive, plain, bare = (
        advice(VALLEY, **kind).lr for kind in ({"adaptive": True}, {"has_norm": True}, {"has_norm": False})
    )
    assert plain / adaptive == pytest.approx(0.8 / 0.65, rel=0.05)
    assert bare / plain == pytest.approx(0.5 / 0.8, rel=0.05)
    lstm = advice(VALLEY, adaptive=True, has_lstm=True).lr
    assert lstm / adaptive == pytest.approx(0.45 / 0.65, rel=0.05)
    assert advice(VALLEY, has_lstm=True).lr == plain


@pytest.mark.parametrize("options", [{"bs": 4096, "adaptive": True}, {"bs": 16}, {"bs": 16, "has_norm": False}])
@pytest.mark.parametrize("noise", [1, 16])
def test_the_reason_ends_with_the_rate(options, noise):
    found = recommend(LRS, VALLEY + noise * NOISE, VALLEY, **options)
    assert found.reason.split("; the loss fell hardly")[0].endswith(f": take {found.lr:.1e}")


def test_no_rate_lies_above_the_wall():
    found = advice(VALLEY, bs=4096, adaptive=True)
    assert np.log10(found.lr) == pytest.approx(-1.66, abs=0.03)
    assert "kept within the useful part of the sweep" in found.reason


@pytest.mark.parametrize(("adaptive", "usual"), [(True, 0.018), (False, 0.25)])
def test_the_less_clear_the_fall_the_closer_the_rate_to_the_usual_one(adaptive, usual):
    higher = LRS * (1 if adaptive else 30)  # a wall below the usual rate would hold it back
    found = [recommend(higher, VALLEY + k * NOISE, VALLEY, adaptive=adaptive, bs=16) for k in (1, 6, 16)]
    gaps = [abs(math.log(one.lr / usual)) for one in found]
    assert gaps[0] > gaps[1] > gaps[2]
    assert "moved toward the usual rate" in found[2].reason


def test_a_loss_that_is_not_finite_is_a_wall():
    falls = np.where(X > -2, np.nan, VALLEY)
    assert advice(falls, adaptive=True, bs=1024).lr == pytest.approx(1e-2, rel=0.2)


def test_a_broken_next_loss_is_a_wall_without_advice_to_go_higher():
    falls = X < -2
    rates, losses = 10.0 ** X[falls], VALLEY[falls]
    sure, broke = recommend(rates, losses, losses), recommend(rates, losses, losses, broke=True)
    assert "sweep to higher rates" in sure.reason and broke.lr < sure.lr
    assert "kept falling, and was not finite past" in broke.reason and "higher" not in broke.reason
    flat = recommend(rates, np.ones_like(rates), np.ones_like(rates), broke=True)
    assert math.isnan(flat.lr) and "look for NaN" in flat.reason


def test_the_rate_grows_with_the_square_root_of_the_batch_size():
    sizes = (8, 16, 64, None, 1024, 4096)
    factors = [Calibration().factor(bs, adaptive=True, has_norm=True) for bs in sizes]
    assert factors == pytest.approx([0.65 * math.sqrt(bs / 64) for bs in (8, 16, 64, 64, 1024, 1024)])
    rates = [advice(VALLEY, bs=bs, adaptive=True).lr for bs in (8, 16, 64, None)]
    assert rates[1] / rates[0] == pytest.approx(math.sqrt(2), rel=0.01) and rates[2] == rates[3]


def test_a_long_floor_counts_for_the_middle():
    floor = np.where(X < -4, 2.0, np.where(X < -2, 2 - (X + 4) / 2, 1.0))
    found = advice(floor)
    # Two decades with a weight of a third around -2.5, and three around -0.5. The wall is out of sight: half a decade.
    middle = (-2.5 * 2 / 3 - 0.5 * 3) / (2 / 3 + 3)
    assert np.log10(found.lr / 0.8) == pytest.approx(middle + 0.5, abs=0.05)
    assert "hardly rose after that (sweep to higher rates" in found.reason or "still falling at the end" in found.reason


@pytest.mark.parametrize("scale", [1e-4, 1e3])
@pytest.mark.parametrize("shift", [0, -1.5, -5, 10])
def test_neither_scale_nor_level_of_the_loss_matters(scale, shift):
    found = recommend(LRS, (VALLEY + shift + NOISE) * scale, (VALLEY + shift) * scale)
    assert found.lr == pytest.approx(advice(VALLEY).lr)


def test_differences_between_batches_do_not_move_it_if_the_same_items_were_measured():
    noisy = recommend(LRS, VALLEY + 5 * NOISE, VALLEY).lr  # only less clear
    assert np.log10(noisy / advice(VALLEY).lr) == pytest.approx(0, abs=0.3)


def test_without_fixed_items_the_losses_of_the_batches_are_read():
    assert np.log10(recommend(LRS, VALLEY + NOISE, NONE).lr / advice(VALLEY).lr) == pytest.approx(0, abs=0.2)


def test_a_faster_sweep_finds_the_same():
    for kind in (True, False):
        fast = recommend(LRS[::2], (VALLEY + NOISE)[::2], VALLEY[::2], adaptive=kind)
        assert np.log10(fast.lr / advice(VALLEY, adaptive=kind).lr) == pytest.approx(0, abs=0.05)


def test_short_spikes_do_not_hide_a_fall_on_a_plateau():
    plateau = 2.3 - 0.3 * np.exp(-0.5 * ((X + 2) / 0.1) ** 2) + 2 * (np.abs(X + 1.7) < 0.05)
    assert np.log10(advice(plateau, adaptive=True).lr) == pytest.approx(-2, abs=0.2)


def test_an_explosion_does_not_outweigh_earlier_losses():
    wild = VALLEY.copy()
    wild[-8:] = 10.0 ** np.arange(1, 9)
    assert advice(wild, VALLEY + NOISE).lr == pytest.approx(advice(VALLEY).lr, rel=0.01)


def test_the_curve_ends_at_the_first_loss_that_is_not_finite():
    broken = np.where(X > -1.5, np.nan, VALLEY)
    assert advice(broken).lr == pytest.approx(advice(VALLEY).lr, rel=0.25)


def test_losses_that_were_not_measured_at_first_are_left_out():
    late = VALLEY.copy()
    late[:9] = np.nan
    assert advice(late, VALLEY + NOISE).lr == pytest.approx(advice(VALLEY).lr, rel=0.01)


def test_the_reason_says_that_the_loss_still_falls_at_the_end_and_the_rate_stays_in_the_range():
    found = advice(2 - np.maximum(X - 0.5, 0))
    assert LRS[-1] / 4 < found.lr <= LRS[-1]
    assert "still falling at the end of the range" in found.reason


def test_the_reason_says_that_the_range_begins_within_the_fall():
    late = X > -3.4
    found = recommend(LRS[late], (VALLEY + NOISE)[late], VALLEY[late])
    assert "about as fast at the first rates: sweep from lower rates" in found.reason
    assert "about as fast at the first rates" not in advice(VALLEY).reason


def test_a_flat_start_of_any_length_does_not_move_it():
    long = 10 ** np.linspace(-15, 1, 200)  # the same rates, after a hundred too small to do anything
    ahead = np.full(100, 2.0)
    found = recommend(long, np.r_[ahead + NOISE, VALLEY + NOISE], np.r_[ahead, VALLEY])
    assert np.log10(found.lr / advice(VALLEY).lr) == pytest.approx(0, abs=0.05)


def test_losses_with_a_period_do_not_move_it_if_the_same_items_were_measured():
    periodic = VALLEY + 0.8 * np.sign(np.sin(np.arange(100) / 3)) + NOISE  # runs of easy and of hard batches
    assert np.log10(recommend(LRS, periodic, VALLEY).lr / advice(VALLEY).lr) == pytest.approx(0, abs=0.05)


def test_a_fall_within_the_noise_does_not_count():
    found = advice(VALLEY * 0.01, VALLEY + NOISE)
    assert math.isnan(found.lr) and (found.interval, found.bounds) == (None, None)
    assert "fell by only" in found.reason


@pytest.mark.parametrize("wall", [np.inf, -1])
def test_losses_of_different_batches_rarely_show_a_fall_by_chance(wall):
    level = 2 + np.clip(3 * (X - wall), 0, None)
    noise = 0.1 * np.random.default_rng(1).normal(size=(100, 100))
    assert sum(not math.isnan(recommend(LRS, level + one, NONE).lr) for one in noise) <= 8


@pytest.mark.parametrize("first", [0, 45])
def test_the_interval_stays_within_the_range(first):
    lrs, losses = LRS[first:], VALLEY[first:]
    low, high = recommend(lrs, losses + NOISE[first:], losses).interval
    assert lrs[0] <= low < high <= lrs[-1]


def test_a_loss_that_only_rises_gives_none_and_says_from_where():
    found = advice(2 + np.maximum(X + 3, 0), 2 + NOISE)
    assert math.isnan(found.lr)
    assert np.log10(found.turns["rise"]) == pytest.approx(-2.9, abs=0.15)
    assert f"rose from {found.turns['rise']:.1e} on" in found.reason


@pytest.mark.parametrize("level", [0.0, 2.0, 1e9])
def test_a_flat_loss_gives_none_and_says_so(level):
    found = recommend(LRS, np.full(100, level), NONE)
    assert math.isnan(found.lr) and "did not rise either" in found.reason


@pytest.mark.parametrize("n", [0, 1, 7])
def test_too_few_points_give_none(n):
    found = recommend(LRS[:n], VALLEY[:n], VALLEY[:n])
    assert math.isnan(found.lr)
    assert f"only {n} of the 8 comparable losses that a recommendation needs: sweep at least 8 steps" in found.reason


def test_a_vague_fall_widens_the_interval_and_is_called_a_rough_guess():
    clear, vague = advice(VALLEY), advice(VALLEY, VALLEY + 12 * NOISE)
    assert vague.interval[0] < clear.interval[0] and vague.interval[1] >= clear.interval[1]
    assert "rough guess" in vague.reason and "rough guess" not in clear.reason


@pytest.mark.parametrize(("adaptive", "usual"), [(True, 0.018), (False, 0.25)])
def test_a_net_on_a_plateau_that_knows_nothing_gets_the_usual_rate_below_the_rise(adaptive, usual):
    plateau = 2 + np.maximum(X - 0.5, 0)  # rises from about 3 on
    found = advice(plateau, 2 + NOISE, adaptive=adaptive, untrained=True)
    assert found.lr == usual < found.turns["rise"] / 4 and "knows nothing yet" in found.reason
    assert found.interval[0] < found.lr < found.interval[1]
    early = advice(2 + np.maximum(X + 3, 0), 2 + NOISE, adaptive=adaptive, untrained=True)
    assert early.lr == pytest.approx(early.turns["rise"] / 4)
    assert f"{usual:.1e}, usual for such optimizers, is too high here" in early.reason
    late = recommend(LRS[90:], 2 + NOISE[90:], plateau[90:], adaptive=adaptive, untrained=True)
    assert late.lr == LRS[90] and "is the lowest rate of the sweep" in late.reason
    assert math.isnan(advice(plateau, 2 + NOISE, adaptive=adaptive).lr)  # it may be good already


def find_where_settled(fixed):
    losses = fixed + NOISE
    return next((n for n in range(1, 101) if is_settled(LRS[:n], losses[:n], fixed[:n])), None)


def test_it_is_settled_soon_after_the_rise_and_more_losses_hardly_move_it():
    n = find_where_settled(VALLEY)
    assert 1.75 <= VALLEY[n - 4] <= VALLEY[n - 1] < 2.3  # four losses that keep a quarter of the fall or less
    cut = recommend(LRS[:n], (VALLEY + NOISE)[:n], VALLEY[:n])
    assert cut.lr == pytest.approx(advice(VALLEY).lr, rel=0.05)


def test_it_is_not_settled_by_a_short_spike_or_without_a_clear_fall():
    falling = np.where(X < -4, 2.0, 2 - (X + 4) / 5)
    spiky = np.where((X > -2) & (X < -1.8), 3.0, falling)
    assert find_where_settled(falling) is find_where_settled(spiky) is find_where_settled(np.full(100, 2.0)) is None
    assert find_where_settled(np.where(X < -2, 2.0, 4.0)) is None
    assert not is_settled([], [], []) and not is_settled(LRS[:5], VALLEY[:5], [np.nan] * 5)


def test_the_usual_rate_is_for_the_group_with_the_highest_rate():
    plateau = 2 + np.maximum(X - 0.5, 0)
    one, ten = (advice(plateau, 2 + NOISE, untrained=True, highest=highest) for highest in (1.0, 10.0))
    assert ten.lr == pytest.approx(one.lr / 10)
    vague = [advice(VALLEY, VALLEY + 12 * NOISE, highest=highest).lr for highest in (1.0, 10.0)]
    assert vague[1] < 0.9 * vague[0]
    assert advice(VALLEY, highest=10.0).lr == pytest.approx(advice(VALLEY).lr, rel=0.05)  # a clear curve decides
