from __future__ import annotations

import socket

import pytest

from maia.origin import refusal

OWN = socket.gethostname()


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:4200", None),
        ("localhost:4200", "http://localhost:4200"),
        ("LOCALHOST:4200", "http://localhost:4200"),
        ("[::1]:4200", "http://[::1]:4200"),
        ("192.168.3.7", "http://192.168.3.7"),
        ("192.168.3.7", "http://192.168.3.7:80"),
        (f"{OWN}:4200", f"http://{OWN}:4200"),
        ("prefect.example", "https://prefect.example"),
        ("prefect.example:443", "https://prefect.example"),
        # A proxy that doesn't pass on the name by which it is called.
        ("127.0.0.1:4200", "https://Prefect.example"),
    ],
)
def test_programs_and_a_server_s_own_pages_are_served(host: str, origin: str | None) -> None:
    assert refusal(host, origin, ["Prefect.example"]) is None


@pytest.mark.parametrize(
    ("host", "origin", "reason"),
    [
        ("evil.example", None, "Host 'evil.example'"),
        ("evil.example:4200", "http://evil.example:4200", "Host"),
        ("127.0.0.1.evil.example", None, "Host"),
        (f"{OWN}.evil.example", None, "Host"),
        ("", None, "Host"),
        (None, None, "Host"),
        ("[::1", None, "Host"),
        ("127.0.0.1:no", None, "Host"),
        ("127.0.0.1:4200", "http://evil.example", "pages of 'http://evil.example'"),
        ("127.0.0.1:4200", "http://127.0.0.1:8000", "pages of"),
        ("127.0.0.1:4200", "http://localhost:4200", "pages of"),
        ("127.0.0.1:4200", "null", "pages of"),
        ("127.0.0.1:4200", "", "pages of"),
    ],
)
def test_other_sites_pages_are_refused(host: str | None, origin: str | None, reason: str) -> None:
    told = refusal(host, origin)
    assert told is not None
    assert reason in told


def test_the_name_by_which_a_server_listens_allows_no_pages_of_other_ports() -> None:
    assert refusal("prefect.lan:4200", "http://prefect.lan:4200", own_name="Prefect.lan") is None
    for own in ("127.0.0.1", "prefect.lan"):
        told = refusal(f"{own}:4200", f"http://{own}:9999", own_name=own)
        assert told is not None
        assert "pages of" in told
