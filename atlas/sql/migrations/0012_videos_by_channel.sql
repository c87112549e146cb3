-- A channel's videos, for its page: without an index each look reads every video. Never changes with a refresh, so that
-- refreshes stay HOT.
CREATE INDEX videos_by_channel ON videos (channel_id);
