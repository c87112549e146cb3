-- Sites that learn together: who they are, how far each has been heard, what was refused, and under which name this one counts.

-- A name with a number is the same site after its database was restored or copied.
CREATE FUNCTION site_of(node text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    -- Nearly all have no dot, for which no regular expression is needed.
    SELECT CASE WHEN strpos(node, '.') = 0 THEN node ELSE regexp_replace(node, '\.[0-9]+$', '') END
$$;

ALTER TABLE site ADD COLUMN counts_in text;
ALTER TABLE site ADD COLUMN conflicts text NOT NULL DEFAULT 'merge' CHECK (conflicts IN ('merge', 'latest', 'confident'));

COMMENT ON COLUMN site.counts_in IS 'What database_identity() was when this database took its name in evidence; it differs in a copy';
COMMENT ON COLUMN site.conflicts IS 'Whose evidence counts where sites differ: everybody''s, the latest site''s, or the surest''s';

UPDATE site SET counts_in = database_identity();

-- The name under which this database counts. A copy of a database would count again what others hold already under that name, with
-- the same versions; so it takes a new one first, with the microseconds since 1970 as its number, or the next number if that is
-- higher. Another copy of the same backup thus gets another name.
CREATE FUNCTION own_node() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    here CONSTANT text := database_identity();
    named text;
BEGIN
    SELECT node INTO named FROM site WHERE counts_in = here;
    IF named IS NULL AND pg_is_in_recovery() THEN
        SELECT node INTO named FROM site;
    ELSIF named IS NULL THEN
        UPDATE site
        SET node = left(site_of(node), 80) || '.' || greatest(
                (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
                coalesce(substring(node FROM '\.([0-9]{1,17})$')::bigint, 0) + 1
            ),
            counts_in = here
        WHERE counts_in IS DISTINCT FROM here;
        SELECT node INTO named FROM site;
    END IF;
    RETURN named;
END $$;

-- Which site brought a text or a row of evidence, so that it isn't sent back there: a text as long as it has that version.
ALTER TABLE patterns ADD COLUMN brought_by text COLLATE "C";
ALTER TABLE patterns ADD COLUMN brought_version bigint;
ALTER TABLE pattern_evidence ADD COLUMN brought_by text COLLATE "C";

-- Another site, or a former name of one; and what was exchanged with it.
CREATE TABLE federation_peers (
    node           text COLLATE "C" PRIMARY KEY CHECK (length(node) BETWEEN 1 AND 100),
    role           text NOT NULL DEFAULT 'learner' CHECK (role IN ('learner', 'coordinator')),
    place          text CHECK (length(place) BETWEEN 1 AND 300),
    seen_at        timestamptz NOT NULL,
    heard_at       timestamptz,
    left_at        timestamptz,
    compared_at    timestamptz,
    messages_in    bigint NOT NULL DEFAULT 0 CHECK (messages_in >= 0),
    messages_out   bigint NOT NULL DEFAULT 0 CHECK (messages_out >= 0),
    records_in     bigint NOT NULL DEFAULT 0 CHECK (records_in >= 0),
    records_out    bigint NOT NULL DEFAULT 0 CHECK (records_out >= 0),
    changed        bigint NOT NULL DEFAULT 0 CHECK (changed >= 0),
    bytes_in       bigint NOT NULL DEFAULT 0 CHECK (bytes_in >= 0),
    bytes_out      bigint NOT NULL DEFAULT 0 CHECK (bytes_out >= 0),
    new_on         date,
    new_keys       bigint NOT NULL DEFAULT 0 CHECK (new_keys >= 0),
    failures       integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    isolated_until timestamptz
);

COMMENT ON COLUMN federation_peers.place IS 'Host and port at which it is called, if it is called from here';
COMMENT ON COLUMN federation_peers.seen_at IS 'When it was last known to be there, if only by what other sites say';
COMMENT ON COLUMN federation_peers.heard_at IS 'When it last sent a message that was accepted';
COMMENT ON COLUMN federation_peers.compared_at IS 'When everything was last compared with it';
COMMENT ON COLUMN federation_peers.changed IS 'How many of its records changed anything here';
COMMENT ON COLUMN federation_peers.new_keys IS 'How many things it brought on the day new_on that nobody knew here';
COMMENT ON COLUMN federation_peers.failures IS 'How many messages in a row were refused';

-- How far each kind of record of a peer was read, and how far it has read ours; or where in a stream.
CREATE TABLE federation_positions (
    node     text COLLATE "C" NOT NULL REFERENCES federation_peers ON DELETE CASCADE,
    feed     text COLLATE "C" NOT NULL CHECK (length(feed) BETWEEN 1 AND 100),
    position text NOT NULL CHECK (length(position) <= 300),
    PRIMARY KEY (node, feed)
);

-- Why messages were refused. Those whose sender is not known, as they lack the token, have the empty name.
CREATE TABLE federation_refusals (
    node      text COLLATE "C" NOT NULL CHECK (length(node) <= 100),
    reason    text COLLATE "C" NOT NULL CHECK (length(reason) BETWEEN 1 AND 50),
    count     bigint NOT NULL CHECK (count >= 1),
    last_at   timestamptz NOT NULL,
    last_told text NOT NULL CHECK (length(last_told) <= 500),
    PRIMARY KEY (node, reason)
);

-- The lower bound of Wilson's 90 % interval (Wilson, 1927) of a share: how sure a site is, for comparing sites.
CREATE FUNCTION wilson_floor(pos double precision, neg double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN pos + neg = 0 THEN 0
        ELSE (pos + 1.35277 - 1.64485 * sqrt(pos * neg / (pos + neg) + 0.67639)) / (pos + neg + 2.70554)
    END
$$;

-- Evidence, and whether it counts here: where sites differ, a setting may prefer one of them to the sum of all. Only one of the
-- three parts is ever computed, for the patterns that are asked for.
CREATE VIEW weighed_evidence AS
SELECT e.*, true AS counts
FROM pattern_evidence AS e
WHERE (SELECT conflicts FROM site) = 'merge'
UNION ALL
SELECT e.*, site_of(e.node) = first_value(site_of(e.node)) OVER (
    PARTITION BY e.pattern_id ORDER BY e.last_seen DESC, site_of(e.node) COLLATE "C" DESC
)
FROM pattern_evidence AS e
WHERE (SELECT conflicts FROM site) = 'latest'
UNION ALL
SELECT pattern_id, node, day, pos, neg, sum_reward, last_seen, version, changed, brought_by, site_of(node) = first_value(site_of(node))
    OVER (PARTITION BY pattern_id ORDER BY wilson_floor(up, down) DESC, up + down DESC, site_of(node) COLLATE "C" DESC)
FROM (
    SELECT e.*, (sum(e.pos) OVER of_site)::float8 AS up, (sum(e.neg) OVER of_site)::float8 AS down
    FROM pattern_evidence AS e
    WHERE (SELECT conflicts FROM site) = 'confident'
    WINDOW of_site AS (PARTITION BY e.pattern_id, site_of(e.node))
) AS e;
