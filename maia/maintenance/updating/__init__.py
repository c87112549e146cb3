"""Updating: finds updates of the system and of Pleiades, and installs them so that there is a way back."""
