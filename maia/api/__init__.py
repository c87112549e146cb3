"""The HTTP service: patterns, discovery, live updates and the dashboard, over one Atlas."""
