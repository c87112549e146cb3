"""An emulator of the YouTube Data API v3 over a catalogue and a virtual clock."""

from maia.youtube.emulator.faults import Fault
from maia.youtube.emulator.quota import EmulatorError, Project
from maia.youtube.emulator.server import Call, Emulator

__all__ = ["Call", "Emulator", "EmulatorError", "Fault", "Project"]
