-- Claims that were seen to have lapsed, by their token, so that each is counted once.
CREATE TABLE metric_lapses (
    lease_token uuid PRIMARY KEY,
    seen_at     timestamptz NOT NULL
) WITH (fillfactor = 90);
