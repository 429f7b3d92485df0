"""A short fault campaign; `python -m tests.faults.campaign` is the long one."""

from tests.faults import campaign
from tests.faults.kinds import SHORT, possible


def test_a_run_that_is_disturbed_ends_as_one_that_is_not(tmp_path):
    names = possible(SHORT)
    found = list(campaign.campaign(names, tmp_path, seed=0))
    assert [row.fault for row in found] == names
    assert not any(row.wrong for row in found), [row.line(i) for i, row in enumerate(found)]
