-- Discovery as a portfolio: where each video was met, what each day's units are planned for, and what they brought.

CREATE TABLE video_sources (
    video_id       text COLLATE "C" NOT NULL REFERENCES videos ON DELETE CASCADE,
    arm            text COLLATE "C" NOT NULL CHECK (length(arm) BETWEEN 1 AND 60),
    met_at         timestamptz NOT NULL,
    topics         bigint[] NOT NULL DEFAULT '{}',
    is_first       boolean NOT NULL,
    age_h          real,
    is_early       boolean NOT NULL GENERATED ALWAYS AS (is_first AND coalesce(age_h <= 24, false)) STORED,
    views_per_hour real,
    growing        boolean,
    judged_at      timestamptz,
    PRIMARY KEY (video_id, arm)
) WITH (
    -- Judging writes each early row once more.
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

COMMENT ON TABLE video_sources IS 'Each arm that met a video, and when first';
COMMENT ON COLUMN video_sources.topics IS 'The topics that get the credit: those that were asked about and that the video carries';
COMMENT ON COLUMN video_sources.is_first IS 'Whether this arm found the video: it was stored then';
COMMENT ON COLUMN video_sources.age_h IS 'Hours since publication when this arm met it; NULL if unknown';
COMMENT ON COLUMN video_sources.views_per_hour IS 'Over the first 24 hours, once they are known';
COMMENT ON COLUMN video_sources.growing IS 'Whether that is among the fastest; NULL while unknown, and for ever if its counts are';

CREATE UNIQUE INDEX video_sources_first ON video_sources (video_id) WHERE is_first;
CREATE INDEX video_sources_to_judge ON video_sources (met_at) WHERE is_early AND judged_at IS NULL;
CREATE INDEX video_sources_judged ON video_sources (judged_at) WHERE judged_at IS NOT NULL;

CREATE TABLE discovery_plan (
    pacific_day date NOT NULL,
    arm         text COLLATE "C" NOT NULL CHECK (length(arm) BETWEEN 1 AND 60),
    bucket      text NOT NULL CHECK (bucket IN ('search', 'stats', 'general')),
    share       double precision NOT NULL CHECK (share BETWEEN 0 AND 1),
    least_share double precision NOT NULL CHECK (least_share BETWEEN 0 AND 1),
    expected    double precision NOT NULL CHECK (expected >= 0),
    low         double precision NOT NULL CHECK (low >= 0),
    high        double precision NOT NULL CHECK (high >= low),
    reason      text NOT NULL,
    claimed     bigint NOT NULL DEFAULT 0 CHECK (claimed >= 0),
    unwell      text,
    made_at     timestamptz NOT NULL,
    PRIMARY KEY (pacific_day, arm)
) WITH (fillfactor = 50);

COMMENT ON COLUMN discovery_plan.share IS 'Of the bucket''s units';
COMMENT ON COLUMN discovery_plan.least_share IS 'What is left of it when the arm stops answering as expected';
COMMENT ON COLUMN discovery_plan.expected IS 'Early growing videos per unit, with the interval from low to high';
COMMENT ON COLUMN discovery_plan.claimed IS 'Units that hunters have taken for the arm so far';
COMMENT ON COLUMN discovery_plan.unwell IS 'How its answers differ from what is expected, once that was noticed';

-- Only ever added to, in the transactions that store what was found.
CREATE TABLE discovery_yields (
    pacific_day date NOT NULL,
    arm         text COLLATE "C" NOT NULL CHECK (length(arm) BETWEEN 1 AND 60),
    asks        bigint NOT NULL DEFAULT 0,
    units       bigint NOT NULL DEFAULT 0,
    enrichments double precision NOT NULL DEFAULT 0,
    found       bigint NOT NULL DEFAULT 0,
    new         bigint NOT NULL DEFAULT 0,
    early       bigint NOT NULL DEFAULT 0,
    judged      bigint NOT NULL DEFAULT 0,
    growing     bigint NOT NULL DEFAULT 0,
    odd         bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (pacific_day, arm)
) WITH (fillfactor = 50);

COMMENT ON COLUMN discovery_yields.units IS 'Of the arm''s own bucket';
COMMENT ON COLUMN discovery_yields.enrichments IS 'Units spent on metadata, shared out among the asks that were enriched together';
COMMENT ON COLUMN discovery_yields.early IS 'Found within 24 hours of publication';
COMMENT ON COLUMN discovery_yields.judged IS 'Early videos of which it is known whether they grew, by the day they were found';

-- Questions that no single topic asks. An ask is open while it is claimed, was released, or has a page worth asking for.
CREATE TABLE discovery_asks (
    key            text COLLATE "C" PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 200),
    arm            text COLLATE "C" NOT NULL CHECK (length(arm) BETWEEN 1 AND 60),
    question       jsonb NOT NULL CHECK (jsonb_typeof(question) = 'object'),
    topics         bigint[] NOT NULL DEFAULT '{}',
    asked_at       timestamptz NOT NULL,
    covers_until   timestamptz,
    is_open        boolean NOT NULL DEFAULT true,
    lease_token    uuid,
    lease_until    timestamptz,
    attempts       tally NOT NULL DEFAULT 0,
    last_error     text,
    page_token     text,
    page_issued_at timestamptz,
    pages          tally NOT NULL DEFAULT 0,
    results        tally NOT NULL DEFAULT 0,
    last_page_digest text,
    CONSTRAINT page_token_is_whole CHECK ((page_token IS NULL) = (page_issued_at IS NULL))
) WITH (fillfactor = 60);

COMMENT ON COLUMN discovery_asks.question IS 'The parameters of the request; a page token belongs to exactly these';
COMMENT ON COLUMN discovery_asks.covers_until IS 'For slices of time: where the next one begins';

CREATE INDEX discovery_asks_open ON discovery_asks (arm, asked_at) WHERE is_open;
CREATE INDEX discovery_asks_by_arm ON discovery_asks (arm, asked_at);

-- One row: what the hunters share about growth.
CREATE TABLE discovery_state (
    only_row               boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    growing_views_per_hour double precision CHECK (growing_views_per_hour >= 0),
    judged_at              timestamptz
) WITH (fillfactor = 10);

COMMENT ON COLUMN discovery_state.growing_views_per_hour IS 'Views an hour over the first 24 from which a video counts as growing';
COMMENT ON COLUMN discovery_state.judged_at IS 'When hunters last looked which videos grew';

INSERT INTO discovery_state DEFAULT VALUES;

ALTER TABLE search_queue
    ADD COLUMN asks_total          real NOT NULL DEFAULT 0,
    ADD COLUMN early_total         bigint NOT NULL DEFAULT 0,
    ADD COLUMN judged_total        bigint NOT NULL DEFAULT 0,
    ADD COLUMN early_growing_total bigint NOT NULL DEFAULT 0,
    ADD COLUMN growing_mentions    bigint NOT NULL DEFAULT 0,
    ADD COLUMN asked_at            timestamptz;

COMMENT ON COLUMN search_queue.asks_total IS 'A question that joins n topics counts as 1/n of one for each';
COMMENT ON COLUMN search_queue.early_total IS 'Videos that its questions found within 24 hours of publication, and that carry it';
COMMENT ON COLUMN search_queue.judged_total IS 'Those of them of which it is known whether they grew';
COMMENT ON COLUMN search_queue.early_growing_total IS 'Those of them that did';
COMMENT ON COLUMN search_queue.growing_mentions IS 'Growing videos of any source that have it as a tag';
COMMENT ON COLUMN search_queue.asked_at IS 'When a question last asked about it';

-- So far every topic was asked about alone.
UPDATE search_queue SET asks_total = pages_total WHERE pages_total > 0;
