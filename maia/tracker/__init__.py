"""The tracker: the agent that samples videos' counters and computes how fast they grow."""
