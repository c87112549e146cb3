-- View curves in the order of birth, for the learner.
CREATE INDEX video_clock_by_birth ON video_clock (born_at, video_id);
