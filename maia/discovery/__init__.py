"""Where the hunter finds videos: one module per source, with the protocol of `maia.discovery.source`."""
