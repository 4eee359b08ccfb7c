"""By which names the server may be called."""

from __future__ import annotations

import socket

import pytest

from server.hosts import AllowedHosts, allowed_hosts
from server.settings import Settings


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8000",
        "192.168.7.9",
        "[::1]:8000",
        "[fe80::1]",
        "::1",
        "localhost:8000",
        "LocalHost.",
        "robots.localhost",
        "",
    ],
)
def test_addresses_and_localhost_need_no_setting(host: str) -> None:
    assert AllowedHosts().allows(host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:8000", "localhost.evil.example", "[evil]:8000", "1.2"],
)
def test_other_names_are_refused(host: str) -> None:
    assert not AllowedHosts().allows(host)


def test_names_match_whole_and_below_a_star() -> None:
    hosts = AllowedHosts("Arm-PC", "*.lab.example")

    assert hosts.allows("arm-pc:9000")
    assert hosts.allows("cell-3.lab.example")
    for other in ("arm", "arm-pc.evil.example", "lab.example", "evillab.example"):
        assert not hosts.allows(other), other
    assert AllowedHosts("*").allows("evil.example")


def test_a_server_is_known_by_its_machine_and_by_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SELFALIGN_ALLOWED_HOSTS", "policy.example, *.lab.example")

    hosts = allowed_hosts(Settings(host="align.example"))

    machine = socket.gethostname()
    for name in (machine, f"{machine.partition('.')[0]}.local", "align.example", "policy.example"):
        assert hosts.allows(f"{name}:8000"), name
    assert hosts.allows("a.lab.example")
    assert not hosts.allows("evil.example")
