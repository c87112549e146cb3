"""YouTube: the client of its Data API v3, and an emulator of that API to run against."""
