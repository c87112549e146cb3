"""`maia keys`, as an operator meets it after a key was refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from atlas import Atlas
from atlas.keyring import KeyRing
from atlas.testing import SettingsFactory
from tests.fork_server import FORKS, Finished

pytestmark = pytest.mark.acceptance


async def test_a_disabled_key_is_shown_and_enabled_again(
    atlas: Atlas, settings_factory: SettingsFactory, environment: dict[str, str]
) -> None:
    settings = settings_factory(youtube_api_key_pool_json=["sesame-open-thyself"])
    hunting = KeyRing("hunting", atlas=replace(atlas, settings=settings))
    grant = await hunting.acquire("search")
    await hunting.disable_key(grant, "the key was revoked")
    environment["YOUTUBE_API_KEY_POOL_JSON"] = '["sesame-open-thyself"]'

    def keys(*options: str) -> Finished:
        return FORKS.run_and_wait("keys", *options, environment=environment)

    shown = json.loads(keys("--json").stdout)["keys"]
    assert [(key["fingerprint"], key["state"], key["reason"]) for key in shown] == [
        (grant.fingerprint, "disabled", "the key was revoked")
    ]
    refused = keys("--enable", "key-0000")
    assert refused.status == 78
    assert "no key has the fingerprint 'key-0000'" in refused.stderr
    enabled = keys("--enable", grant.fingerprint, "--json")
    assert enabled.status == 0
    assert [key["state"] for key in json.loads(enabled.stdout)["keys"]] == ["active"]
    assert "sesame" not in enabled.stdout + enabled.stderr + refused.stdout + refused.stderr
    assert (await hunting.acquire("search")).fingerprint == grant.fingerprint
