"""The mathematics of the knowledge graph, over arrays: no input or output, no clock, no globals."""
