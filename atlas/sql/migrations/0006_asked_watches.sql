-- When a watched video that is not stored yet was asked for, and how often: the next try waits longer each time.
ALTER TABLE watches
    ADD COLUMN asked_at timestamptz,
    ADD COLUMN asks     tally NOT NULL DEFAULT 0;
