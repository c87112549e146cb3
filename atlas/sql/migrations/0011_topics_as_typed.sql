-- A topic is searched and shown as it was typed. Its words are folded only in the key by which equal ones are found, and
-- words with other search parameters are another topic.

CREATE DOMAIN topic_key AS text COLLATE "C" CHECK (VALUE <> '' AND length(VALUE) <= 200);

CREATE DOMAIN search_parameters AS jsonb CHECK (
    jsonb_typeof(VALUE) = 'object'
    AND VALUE = jsonb_strip_nulls(VALUE)
    AND VALUE - '{published_after,published_before,region,language,duration,category,event_type}'::text[] = '{}'
    AND coalesce(VALUE ->> 'published_after' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$', true)
    AND coalesce(VALUE ->> 'published_before' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$', true)
    AND coalesce(VALUE ->> 'published_after' < VALUE ->> 'published_before', true)
    AND coalesce(VALUE ->> 'region' ~ '^[A-Z]{2}$', true)
    AND coalesce(VALUE ->> 'language' ~ '^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$', true)
    AND coalesce(VALUE ->> 'duration' IN ('short', 'medium', 'long'), true)
    AND coalesce(jsonb_typeof(VALUE -> 'category') = 'number' AND VALUE ->> 'category' ~ '^[1-9]\d{0,2}$', true)
    AND coalesce(VALUE ->> 'event_type' IN ('completed', 'live', 'upcoming'), true)
);

ALTER TABLE search_queue
    ADD COLUMN key        topic_key,
    ADD COLUMN parameters search_parameters NOT NULL DEFAULT '{}',
    ADD COLUMN spellings  jsonb NOT NULL DEFAULT '{}';

COMMENT ON COLUMN search_queue.query IS 'What is searched and shown: as typed, for a tag the commonest of its spellings';
COMMENT ON COLUMN search_queue.key IS 'The query folded by Unicode''s rules, by which equal ones are found';
COMMENT ON COLUMN search_queue.spellings IS 'How often each of a tag''s commonest spellings was met';

-- The queries so far are folded already, but for two letters i that casefolding leaves apart: i with a combining dot, and
-- the dotless one. They stand here as they are, since a database in SQL_ASCII takes no Unicode escapes.
UPDATE search_queue SET key = replace(replace(query, 'i̇', 'i'), 'ı', 'i');

-- Of topics that are one now, the one that was searched most stays, with what all of them have brought.
CREATE TEMPORARY TABLE merged ON COMMIT DROP AS
SELECT id,
    first_value(id) OVER (
        PARTITION BY key ORDER BY lease_token IS NOT NULL DESC, pages_total DESC, priority DESC, id
    ) AS kept
FROM search_queue;
DELETE FROM merged WHERE id = kept;

UPDATE search_queue AS q
SET origin = CASE WHEN other.seeded THEN 'seed' ELSE q.origin END,
    priority = greatest(q.priority, other.priority),
    mention_count = q.mention_count + other.mention_count,
    pages_total = q.pages_total + other.pages_total,
    results_total = q.results_total + other.results_total,
    new_videos_total = q.new_videos_total + other.new_videos_total
FROM (
    SELECT kept, bool_or(origin = 'seed') AS seeded, max(priority) AS priority,
        sum(mention_count)::bigint AS mention_count, sum(pages_total)::bigint AS pages_total,
        sum(results_total)::bigint AS results_total, sum(new_videos_total)::bigint AS new_videos_total
    FROM merged
    JOIN search_queue USING (id)
    GROUP BY kept
) AS other
WHERE q.id = other.kept;

UPDATE videos AS v SET discovered_by = merged.kept FROM merged WHERE v.discovered_by = merged.id;
DELETE FROM search_queue WHERE id IN (SELECT id FROM merged);
UPDATE queue_state SET topics = topics - (SELECT count(*) FROM merged);

-- Casefolding had made an i with a dot of its own of a Turkish capital: no keyboard writes that.
UPDATE search_queue SET query = replace(query, 'i̇', 'i') WHERE query LIKE '%i̇%';

ALTER TABLE search_queue ALTER COLUMN key SET NOT NULL;
ALTER TABLE search_queue DROP CONSTRAINT search_queue_query_key;
ALTER TABLE search_queue ADD CONSTRAINT search_queue_key UNIQUE (key, parameters);

-- The eight commonest spellings of two tallies together.
CREATE FUNCTION with_spellings(known jsonb, met jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT jsonb_object_agg(spelling, mentions)
    FROM (
        SELECT tally.key AS spelling, sum(tally.value::bigint) AS mentions
        FROM (SELECT * FROM jsonb_each_text(known) UNION ALL SELECT * FROM jsonb_each_text(met)) AS tally
        GROUP BY tally.key
        ORDER BY mentions DESC, tally.key COLLATE "C"
        LIMIT 8
    ) AS commonest
);

-- The commonest of the spellings; among equals the one that is shown already.
CREATE FUNCTION commonest_spelling(spellings jsonb, shown text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT tally.key
    FROM jsonb_each_text(spellings) AS tally
    ORDER BY tally.value::bigint DESC, (tally.key = shown) IS TRUE DESC, tally.key COLLATE "C"
    LIMIT 1
);

-- Whether nothing can be published any more in the span that a search asks for.
CREATE FUNCTION span_is_over(parameters jsonb, at timestamptz) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce((parameters ->> 'published_before')::timestamptz <= at, false);
