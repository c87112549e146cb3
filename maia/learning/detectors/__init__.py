"""Detectors: what is learnt from observations, series and view curves, one family of statements a module.

Each class is registered under the entry point group `pleiades.detectors`; `maia.learning.detector` says what
a detector has to be. Their conditions speak of the context's fields, and of some that whoever matches a
context adds to it: `agent`, `action`, `goal`, `outcome` and `error` (what is being done, and how it failed),
and `last_action`, `last_action_2`, `last_action_3` (what was done before it in the session).
"""

from __future__ import annotations

from typing import Any, Final

from maia.learning.detector import Detector
from maia.learning.detectors.archetypes import VelocityArchetypes
from maia.learning.detectors.context_switches import ContextSwitches
from maia.learning.detectors.error_recoveries import ErrorRecoveries
from maia.learning.detectors.failure_modes import FailureModes
from maia.learning.detectors.optimizations import Optimizations
from maia.learning.detectors.preferences import Preferences
from maia.learning.detectors.series import Anomalies, ChangePoints, SeasonalProfiles, Thresholds
from maia.learning.detectors.success_paths import SuccessPaths
from maia.learning.detectors.task_sequences import TaskSequences
from maia.learning.detectors.tool_usage import ToolUsage

BUILT_IN: Final[tuple[type[Detector[Any]], ...]] = (
    TaskSequences,
    ErrorRecoveries,
    ToolUsage,
    Optimizations,
    SuccessPaths,
    FailureModes,
    Preferences,
    ContextSwitches,
    SeasonalProfiles,
    Thresholds,
    Anomalies,
    ChangePoints,
    VelocityArchetypes,
)
"""The detectors that come with Pleiades; entry points name them too, and other packages' beside them."""
