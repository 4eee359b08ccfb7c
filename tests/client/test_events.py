"""Reading server-sent events."""

import pytest

from client.errors import ProtocolError
from client.events import read_events


def test_events_are_read_with_their_id_kind_and_data() -> None:
    lines = ["id: s-1:1", "event: state", 'data: {"state": "running"}', ""]
    (event,) = read_events(lines)
    assert (event.id, event.event, event.data) == ("s-1:1", "state", {"state": "running"})


def test_pings_and_events_without_data_are_passed_over() -> None:
    lines = [": ping", "", "event: state", "", "retry: 3000", "", "event: end", "data: {}", ""]
    assert [event.event for event in read_events(lines)] == ["end"]


def test_data_of_several_lines_is_one_value() -> None:
    lines = ["event: progress", 'data: {"step":', "data: 3}", ""]
    assert next(read_events(lines)).data == {"step": 3}


def test_a_kind_counts_for_its_own_event_only() -> None:
    lines = ["event: state", "data: {}", "", "data: {}", ""]
    with pytest.raises(ProtocolError):
        list(read_events(lines))


def test_an_event_cut_off_by_the_end_is_not_given_out() -> None:
    assert list(read_events(["event: end", "data: {}"])) == []


def test_data_that_is_not_json_is_refused() -> None:
    with pytest.raises(ProtocolError, match="not JSON"):
        list(read_events(["event: end", "data: {", ""]))
