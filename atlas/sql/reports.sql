-- name: yields
-- What each arm of discovery brought on the Pacific days $1 to $2, the first day first.
SELECT pacific_day, arm, asks, units, enrichments, found, new, early, judged, growing
FROM discovery_yields
WHERE pacific_day BETWEEN $1 AND $2
ORDER BY pacific_day, arm;

-- name: quota
-- The units that each ring used of each bucket on the Pacific days $1 to $2, over all projects, and why a bucket closed.
SELECT l.pacific_day, l.bucket, r.ring, sum(r.used)::bigint AS used, max(l.reason) AS reason
FROM quota_ledger AS l
CROSS JOIN LATERAL (VALUES
    ('hunting', l.hunting_used + l.hunting_reserved),
    ('tracking', l.tracking_used + l.tracking_reserved),
    ('archeology', l.archeology_used + l.archeology_reserved)
) AS r (ring, used)
WHERE l.pacific_day BETWEEN $1 AND $2
GROUP BY l.pacific_day, l.bucket, r.ring
ORDER BY l.pacific_day, l.bucket, r.ring;

-- name: fastest
-- At most $4 videos with a sample in [$1, $2) of at least $3 views per hour, the highest such velocity first. Reads the
-- week's partitions once and sorts only what passes the bound.
SELECT video_id, max(velocity) AS peak
FROM video_stats_log
WHERE sampled_at >= $1 AND sampled_at < $2 AND velocity >= $3 AND doubted IS NOT TRUE
GROUP BY video_id
ORDER BY peak DESC, video_id
LIMIT $4;

-- name: high_velocity
-- The $3-highest velocity of the samples in [$1, $2); NULL if there are fewer.
SELECT velocity
FROM video_stats_log
WHERE sampled_at >= $1 AND sampled_at < $2 AND velocity > 0 AND doubted IS NOT TRUE
ORDER BY velocity DESC
OFFSET greatest($3::integer - 1, 0) LIMIT 1;

-- name: gains
-- What the videos $1 gained between their first and last known count in [$2, $3), both counted alike; the most first, at
-- most $4, only of live videos.
WITH seen AS (
    -- Arrays compare element by element, so the least one holds the first instant (in microseconds) and its count.
    SELECT video_id, methodology,
        min(ARRAY[(date_part('epoch', sampled_at) * 1e6)::bigint, views]) AS first,
        max(ARRAY[(date_part('epoch', sampled_at) * 1e6)::bigint, views]) AS last,
        max(velocity) AS peak
    FROM video_stats_log
    WHERE video_id = ANY ($1::text[]) AND sampled_at >= $2 AND sampled_at < $3 AND views IS NOT NULL
        AND doubted IS NOT TRUE
    GROUP BY video_id, methodology
), gained AS (
    SELECT DISTINCT ON (video_id) video_id, last[2] - first[2] AS gained, last[2] AS views, peak,
        (last[1] - first[1]) / 3.6e9::double precision AS hours
    FROM seen
    WHERE last[2] > first[2]
    ORDER BY video_id, last[2] - first[2] DESC
)
SELECT g.video_id AS id, v.title, v.channel_id, h.title AS channel_title, v.published_at, g.gained, g.views, g.hours, g.peak
FROM gained AS g
JOIN video_clock AS c ON c.video_id = g.video_id AND c.status = 'live'
JOIN videos AS v ON v.id = g.video_id
JOIN channels AS h ON h.id = v.channel_id
ORDER BY g.gained DESC, g.video_id
LIMIT $4;

-- name: cycles
-- How the cycles of the kinds $1 in [$2, $3) ended, and what they counted; values that aren't numbers are ignored.
SELECT split_part(kind, '.', 1) AS agent, coalesce(payload ->> 'outcome', 'unknown') AS outcome, count(*) AS cycles,
    coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY figure.seconds), 0) AS seconds,
    coalesce(sum(figure.samples), 0)::bigint AS samples, coalesce(sum(figure.breakouts), 0)::bigint AS breakouts
FROM events
CROSS JOIN LATERAL (
    SELECT CASE jsonb_typeof(payload -> 'seconds') WHEN 'number' THEN (payload ->> 'seconds')::double precision END AS seconds,
        CASE jsonb_typeof(payload -> 'samples') WHEN 'number' THEN (payload ->> 'samples')::double precision END AS samples,
        CASE jsonb_typeof(payload -> 'breakouts') WHEN 'number' THEN (payload ->> 'breakouts')::double precision END
            AS breakouts
) AS figure
WHERE kind = ANY ($1::text[]) AND at >= $2 AND at < $3
GROUP BY 1, 2
ORDER BY 1, 2;

-- name: due
-- How many videos of each zone were due when the tracker looked, by day in the time zone $3: mean and most in [$1, $2).
SELECT (at AT TIME ZONE $3)::date AS day, zone, avg(due.value::double precision) AS mean,
    max(due.value::double precision)::bigint AS most, count(*) AS looks
FROM events
CROSS JOIN LATERAL jsonb_each_text(
    CASE jsonb_typeof(payload -> 'due') WHEN 'object' THEN payload -> 'due' ELSE '{}' END
) AS due (zone, value)
WHERE kind = 'tracker.cycle' AND at >= $1 AND at < $2 AND due.value ~ '^[0-9]+(\.[0-9]+)?$'
GROUP BY day, zone
ORDER BY day, zone;

-- name: health
-- The scores that judgements of health gave each component, by day in the time zone $3: mean and lowest in [$1, $2).
SELECT (at AT TIME ZONE $3)::date AS day, component.key AS component,
    avg((component.value ->> 'score')::double precision) AS mean,
    min((component.value ->> 'score')::double precision) AS lowest, count(*) AS judgements
FROM events
CROSS JOIN LATERAL jsonb_each(
    CASE jsonb_typeof(payload #> '{details,components}') WHEN 'object' THEN payload #> '{details,components}' ELSE '{}' END
) AS component
WHERE kind = 'maintainer.duty' AND payload ->> 'duty' = 'health' AND at >= $1 AND at < $2
    AND jsonb_typeof(component.value -> 'score') = 'number'
GROUP BY 1, 2
ORDER BY 1, 2;

-- name: duties
-- How often each of the maintainer's duties ran and failed in [$1, $2), and what the last run said.
SELECT payload ->> 'duty' AS duty, count(*) AS runs,
    count(*) FILTER (WHERE payload -> 'failed' = 'true') AS failed, max(at) AS last_at,
    (array_agg(payload ->> 'summary' ORDER BY id DESC))[1] AS summary
FROM events
WHERE kind = 'maintainer.duty' AND at >= $1 AND at < $2 AND payload ->> 'duty' IS NOT NULL
GROUP BY 1
ORDER BY 1;

-- name: hosts
-- What each host was doing in [$1, $2): mean and highest figures, the busiest first, at most $3 hosts.
SELECT node, count(*) AS samples, avg(cpu_percent) AS cpu_percent, max(cpu_percent) AS cpu_most,
    avg(memory_percent) AS memory_percent, max(memory_percent) AS memory_most, max(disk_percent) AS disk_most,
    (array_agg(disk_free_bytes ORDER BY at DESC) FILTER (WHERE disk_free_bytes IS NOT NULL))[1] AS disk_free_bytes
FROM system_metrics
WHERE at >= $1 AND at < $2
GROUP BY node
ORDER BY avg(cpu_percent) DESC NULLS LAST, node
LIMIT $3;

-- name: forgotten
-- How many patterns the learner and operators forgot in [$1, $2), and the last $3 of them.
SELECT statement, forgotten_by, forgotten_at, count(*) OVER () AS total
FROM patterns
WHERE forgotten_at >= $1 AND forgotten_at < $2
ORDER BY forgotten_at DESC, id
LIMIT $3;

-- name: write
-- Store the report of week $1 from $2 to $3, made at $4: summary $5, data $6, and whether it names videos ($7). One made
-- again takes its place, but keeps the objects until the new ones are stored, and when it was announced.
INSERT INTO reports AS r (week, begins_at, ends_at, made_at, summary, data, has_names)
VALUES ($1, $2, $3, $4, $5, $6::text::json, $7)
ON CONFLICT (week) DO UPDATE
SET begins_at = excluded.begins_at, ends_at = excluded.ends_at, made_at = excluded.made_at, summary = excluded.summary,
    data = excluded.data, has_names = excluded.has_names;

-- name: with_names
-- The reports that name videos, oldest first; why one is not in the vault also if its objects only wait for that.
SELECT
    week, begins_at, ends_at, made_at, summary, data, objects,
    coalesce(refusal, (SELECT min(last_error) FROM vault_refused AS w WHERE w.name = ANY(objects) AND w.body IS NOT NULL)) AS refusal,
    announced_at
FROM reports
WHERE has_names
ORDER BY week;

-- name: not_kept
-- Those of the videos $1 that are not stored, or gone.
SELECT named.id
FROM unnest($1::text[]) AS named (id)
LEFT JOIN videos AS v ON v.id = named.id
LEFT JOIN video_clock AS c ON c.video_id = named.id
WHERE v.id IS NULL OR coalesce(c.status, v.status) = 'gone';

-- name: note_objects
-- Note the objects $2 of the report of week $1, or why the vault refused them for good ($3).
UPDATE reports SET objects = $2, refusal = $3 WHERE week = $1;

-- name: claim_announcement
-- The right to announce the report of week $1, as of $2; only one gets it.
UPDATE reports SET announced_at = $2 WHERE week = $1 AND announced_at IS NULL;

-- name: return_announcement
-- Give the right back that was taken at $2, as the announcement reached nobody.
UPDATE reports SET announced_at = NULL WHERE week = $1 AND announced_at = $2;

-- name: report
-- The report of week $1, or the last one; why it is not in the vault also if its objects only wait for that.
SELECT
    week, begins_at, ends_at, made_at, summary, data, objects,
    coalesce(refusal, (SELECT min(last_error) FROM vault_refused AS w WHERE w.name = ANY(objects) AND w.body IS NOT NULL)) AS refusal,
    announced_at
FROM reports
WHERE $1::text IS NULL OR week = $1
ORDER BY week DESC
LIMIT 1;

-- name: list
-- The last $1 reports, newest first, without their data; why one is not in the vault also if its objects only wait for that.
SELECT
    week, begins_at, ends_at, made_at, summary, objects,
    coalesce(refusal, (SELECT min(last_error) FROM vault_refused AS w WHERE w.name = ANY(objects) AND w.body IS NOT NULL)) AS refusal,
    announced_at
FROM reports
ORDER BY week DESC
LIMIT $1;
