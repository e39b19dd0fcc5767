"""How long a dead process is left alone: longer each time, never for ever, and anew for one that was well."""

from __future__ import annotations

from tertulia._rules.restarts import MAX_DELAY, STEADY, deaths_in_a_row, restart_delay


def test_the_pause_doubles_up_to_a_limit():
    pauses = [restart_delay(deaths) for deaths in range(1, 12)]
    assert pauses[:5] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert pauses[-1] == restart_delay(10**9) == MAX_DELAY


def test_a_process_that_was_well_for_long_begins_a_new_row():
    assert deaths_in_a_row(0, 0.0) == 1
    assert deaths_in_a_row(1, STEADY - 1) == 2
    assert deaths_in_a_row(9, STEADY) == 1
