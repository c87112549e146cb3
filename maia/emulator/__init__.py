"""An emulator of the YouTube Data API v3 over a catalogue and a virtual clock."""

from maia.emulator.faults import Fault
from maia.emulator.quota import EmulatorError, Project
from maia.emulator.server import Emulator, ReceivedCall

__all__ = ["Emulator", "EmulatorError", "Fault", "Project", "ReceivedCall"]
