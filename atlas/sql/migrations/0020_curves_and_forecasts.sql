-- View curves in the order of birth, what is expected of each video, and whether it came so.

CREATE INDEX video_clock_by_birth ON video_clock (born_at);

CREATE TABLE video_forecasts (
    video_id  text COLLATE "C" PRIMARY KEY REFERENCES videos ON DELETE CASCADE,
    made_at   timestamptz NOT NULL,
    views     viewers NOT NULL,
    day_low   finite CHECK (day_low >= 0),
    day       finite NOT NULL,
    day_high  finite,
    day_top   finite CHECK (day_top BETWEEN 0 AND 1),
    week_low  finite CHECK (week_low >= 0),
    week      finite NOT NULL,
    week_high finite,
    week_top  finite CHECK (week_top BETWEEN 0 AND 1),
    CHECK (day_low <= day AND day <= day_high AND week_low <= week AND week <= week_high)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

COMMENT ON TABLE video_forecasts IS 'The last forecast of each video, computed by Pleiades: views 24 hours and 7 days after made_at';
COMMENT ON COLUMN video_forecasts.views IS 'The last count when it was made';
COMMENT ON COLUMN video_forecasts.day_low IS 'The 80 % interval begins here; NULL while too few outcomes are known to tell';
COMMENT ON COLUMN video_forecasts.day_top IS 'Chance to gain more than 95 % of the videos of its age class; NULL while too few outcomes are known to tell';

-- A sample of the forecasts made, to be compared with what comes, and learnt from.
CREATE TABLE forecast_checks (
    video_id   text COLLATE "C" NOT NULL REFERENCES videos ON DELETE CASCADE,
    made_at    timestamptz NOT NULL,
    horizon_h  smallint NOT NULL CHECK (horizon_h > 0),
    due_at     timestamptz NOT NULL,
    age_class  small_tally NOT NULL,
    snapshot   double precision[],
    views      viewers NOT NULL,
    low        finite,
    expected   finite NOT NULL,
    high       finite,
    top        finite,
    damped     finite,
    actual     finite,
    settled_at timestamptz,
    PRIMARY KEY (video_id, made_at, horizon_h)
) WITH (fillfactor = 80);

COMMENT ON COLUMN forecast_checks.snapshot IS 'What was known of the video; NULL once it is learnt';
COMMENT ON COLUMN forecast_checks.damped IS 'What damped velocity alone would have said';
COMMENT ON COLUMN forecast_checks.actual IS 'What came; NULL while it is not known, and for ever if no sample tells';

CREATE INDEX forecast_checks_due ON forecast_checks (due_at) WHERE settled_at IS NULL;
CREATE INDEX forecast_checks_settled ON forecast_checks (settled_at) WHERE settled_at IS NOT NULL;
