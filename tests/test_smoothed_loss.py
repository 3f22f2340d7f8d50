import pytest

from minilearner.smoothed_loss import SmoothedLoss


def test_the_smoothed_loss_has_fastais_values():
    smooth = SmoothedLoss(0.98)
    assert [smooth.update(x) for x in (1, 2, 3, 4)] == pytest.approx([1, 1.50505, 2.01347, 2.52525], abs=1e-5)
    assert smooth.value == pytest.approx(2.52525, abs=1e-5)
    raw = SmoothedLoss(0)
    assert [raw.update(x) for x in (3, 1)] == [3, 1]
    with pytest.raises(ValueError, match="`beta`"):
        SmoothedLoss(1.0)
