"""Tools for AI assistants, by the Model Context Protocol: over stdio and over HTTP."""
