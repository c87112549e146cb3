-- What the hunter finds (channels, videos) and what it searches for (search_queue).

-- A score decays without ever being rewritten: it is log2 of a weight plus the half-lives from 1970 to the instant the
-- weight was added, so that of two equal weights the one a half-life younger stands 1 higher, whenever they are compared
-- (forward decay: Cormode, Shkapenyuk, Srivastava and Xu, ICDE 2009).
CREATE FUNCTION decayed_score(weight double precision, at timestamptz, half_life_s double precision)
RETURNS double precision LANGUAGE sql STABLE PARALLEL SAFE
RETURN ln(weight) / ln(2::double precision) + date_part('epoch', at) / half_life_s;

-- The score of two weights together: log2(2^a + 2^b), which neither overflows nor underflows.
CREATE FUNCTION sum_of_scores(a double precision, b double precision)
RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN greatest(a, b) + ln(1 + power(2::double precision, -least(abs(a - b), 60))) / ln(2::double precision);

-- Fails the statement that completed fewer claims than it was given, and with it all that its transaction stored.
CREATE FUNCTION require_leases(held bigint, given bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF held < given THEN
        RAISE EXCEPTION '% of % leases lost', given - held, given USING ERRCODE = 'PL001';
    END IF;
END
$$;

-- What a domain checks is checked when it is written; a CHECK of the table is read and run by every update, and the
-- queue has more updates than all other tables together.
CREATE DOMAIN topic_query AS text COLLATE "C" CHECK (VALUE <> '' AND length(VALUE) <= 200);
CREATE DOMAIN topic_origin AS text CHECK (VALUE IN ('seed', 'tag', 'suggestion'));
CREATE DOMAIN topic_status AS text CHECK (VALUE IN ('active', 'cooling', 'parked'));
CREATE DOMAIN tally AS integer CHECK (VALUE >= 0);

CREATE TABLE search_queue (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    query            topic_query NOT NULL UNIQUE,
    origin           topic_origin NOT NULL,
    status           topic_status NOT NULL DEFAULT 'active',
    priority         double precision NOT NULL,
    mention_count    bigint NOT NULL DEFAULT 1,
    created_at       timestamptz NOT NULL,
    cool_until       timestamptz,
    -- The claim. lease_until is by the server's clock, as it judges whether a process lives; all else is domain time.
    lease_owner      text,
    lease_token      uuid,
    lease_until      timestamptz,
    claimed_at       timestamptz,
    attempts         tally NOT NULL DEFAULT 0,
    last_error       text,
    -- Where the current run stands, and what it has brought so far.
    page_token       text,
    page_params      jsonb,
    page_issued_at   timestamptz,
    published_after  timestamptz,
    searched_at      timestamptz,
    pages            tally NOT NULL DEFAULT 0,
    results          tally NOT NULL DEFAULT 0,
    new_videos       tally NOT NULL DEFAULT 0,
    last_page_digest text,
    -- What all runs have brought.
    pages_total      bigint NOT NULL DEFAULT 0,
    results_total    bigint NOT NULL DEFAULT 0,
    new_videos_total bigint NOT NULL DEFAULT 0,
    CONSTRAINT cooling_has_an_end CHECK ((status = 'cooling') = (cool_until IS NOT NULL)),
    CONSTRAINT lease_is_whole CHECK (
        (lease_token IS NULL) = (lease_owner IS NULL)
        AND (lease_token IS NULL OR (status = 'active' AND lease_until IS NOT NULL AND claimed_at IS NOT NULL))
    ),
    CONSTRAINT page_token_is_whole CHECK (
        (page_token IS NULL) = (page_params IS NULL) AND (page_token IS NULL) = (page_issued_at IS NULL)
    )
) WITH (
    -- Every claim and every stored page rewrites a row in place (HOT): that takes room for the new version in its page.
    fillfactor = 60,
    -- Topics leave the head of the queue all the time; dead entries there are read by every claim until vacuumed.
    autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_scale_factor = 0.005,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05
);

-- The lease columns stand in no index and no predicate: a claim that touched one could not be HOT.
CREATE INDEX search_queue_by_priority ON search_queue (priority DESC, id) WHERE status = 'active';
CREATE INDEX search_queue_by_cool_until ON search_queue (cool_until) WHERE status = 'cooling';

-- One row: how many topics there are, so that the cap costs no count, and the half-life that their scores were
-- computed with. Written only under the snowball lock.
CREATE TABLE queue_state (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    topics      bigint NOT NULL CHECK (topics >= 0),
    half_life_s double precision NOT NULL CHECK (half_life_s > 0)
) WITH (fillfactor = 10);

INSERT INTO queue_state (topics, half_life_s) VALUES (0, 172800);

CREATE TABLE channels (
    id            text COLLATE "C" PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 64),
    title         text,
    discovered_at timestamptz NOT NULL,
    refreshed_at  timestamptz NOT NULL
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);

COMMENT ON COLUMN channels.refreshed_at IS 'when the title was last seen, exact to a day';

CREATE TABLE videos (
    id                     text COLLATE "C" PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 64),
    channel_id             text COLLATE "C" NOT NULL REFERENCES channels,
    status                 text NOT NULL DEFAULT 'live' CHECK (status IN ('live', 'gone')),
    published_at           timestamptz,
    discovered_at          timestamptz NOT NULL,
    refreshed_at           timestamptz NOT NULL,
    discovered_by          bigint REFERENCES search_queue,
    category_id            integer,
    duration_s             integer CHECK (duration_s >= 0),
    view_count             bigint CHECK (view_count >= 0),
    like_count             bigint CHECK (like_count >= 0),
    comment_count          bigint CHECK (comment_count >= 0),
    title                  text,
    live_broadcast_content text,
    default_language       text,
    etag                   text,
    tags                   text[] NOT NULL DEFAULT '{}',
    description            text
) WITH (
    -- A refresh, due every month at the latest, touches no indexed column: with room for a second version of these wide
    -- rows in their pages it is HOT, and the table stays at a size that it would reach by refreshes anyway.
    fillfactor = 50,
    -- Compressing the texts of rows beyond 2 kB, the default, costs more CPU than all else about an insert.
    toast_tuple_target = 4080,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02
);

COMMENT ON COLUMN videos.view_count IS 'as last fetched with the metadata; NULL is hidden or unknown, never zero';

-- Deleting a topic must look for videos that name it.
CREATE INDEX videos_by_discoverer ON videos (discovered_by);
