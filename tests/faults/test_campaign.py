"""A short fault campaign; `python -m tests.faults.campaign` is the long one."""

from tests.faults import campaign
from tests.faults.kinds import SHORT, possible


def test_a_run_that_is_disturbed_ends_as_one_that_is_not(tmp_path):
    names = possible(SHORT)
    found = list(campaign.campaign(names, tmp_path, seed=0))
    wrong = [row for row in found if isinstance(row, str) or row.wrong]
    assert not wrong
    assert [row.fault for row in found] == names
