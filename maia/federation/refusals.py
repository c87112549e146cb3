"""Why a message of another site is refused."""

from __future__ import annotations

from enum import StrEnum

from maia.errors import MaiaError


class Reason(StrEnum):
    """What was wrong with a message."""

    TOKEN = "token"  # noqa: S105 - the reason, not the token
    TOO_LARGE = "too large"
    MALFORMED = "malformed"
    PROTOCOL = "newer protocol"
    RECORD_VERSION = "newer records"
    CLUSTER = "another cluster"
    OUR_NAME = "our name"
    CLOCK = "clock"
    RECORDS = "records"
    QUOTA = "quota"
    TOO_MANY_SITES = "too many sites"
    ISOLATED = "isolated"
    SET_BACK = "set back"


class Refused(MaiaError):
    """A message that is not accepted; nothing of it was merged. `told` is for whoever sent it."""

    def __init__(self, reason: Reason, told: str) -> None:
        super().__init__(f"refused ({reason}): {told}")
        self.reason, self.told = reason, told
