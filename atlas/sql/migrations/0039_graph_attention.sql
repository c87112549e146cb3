-- The videos that were found to grow, in the order of when that became known: they get attention in the graph.

CREATE INDEX video_sources_growing ON video_sources (judged_at, video_id) WHERE growing;
