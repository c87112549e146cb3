-- What fills a database with made-up videos: pg_temp.at() is the instant, pg_temp.videos() how many there are, and words
-- has pg_temp.words() words, the commonest first.

-- name: channels
INSERT INTO channels (id, title, discovered_at, refreshed_at)
SELECT 'UC' || lpad(number::text, 22, '0'),
    initcap(a.word || ' ' || b.word) || CASE WHEN number % 7 = 0 THEN ' TV' ELSE '' END, pg_temp.at(), pg_temp.at()
FROM generate_series(0, pg_temp.videos() / 20) AS number
JOIN words AS a ON a.n = number::bigint * 7919 % pg_temp.words()
JOIN words AS b ON b.n = number::bigint * 104729 % pg_temp.words();

-- name: topics
INSERT INTO search_queue (query, key, origin, status, priority, mention_count, created_at, cool_until,
    parameters, pages_total, results_total, new_videos_total, asks_total)
SELECT 'topic ' || n, 'topic ' || n, CASE WHEN n % 50 = 0 THEN 'seed' ELSE 'tag' END,
    CASE WHEN n % 20 = 0 THEN 'parked' WHEN n % 5 = 0 THEN 'cooling' ELSE 'active' END,
    1e4 + 20 * random(), 1 + n % 90, pg_temp.at(), CASE WHEN n % 5 = 0 AND n % 20 > 0 THEN pg_temp.at() + interval '1 day' END,
    CASE WHEN n % 3 = 0 THEN jsonb_build_object('region', (ARRAY['DE', 'US', 'JP', 'BR', 'IS'])[
        CASE WHEN n % 1000 = 3 THEN 5 ELSE 1 + n % 4 END]) ELSE '{}' END, 1, 50, 20, 1
FROM generate_series(1, greatest(pg_temp.videos() / 5, 20)) AS n;

-- name: count of topics
UPDATE queue_state SET topics = (SELECT count(*) FROM search_queue);

-- name: traits
CREATE TEMPORARY TABLE traits AS
SELECT n, substr(md5('video ' || n), 1, 11) AS id,
    'UC' || lpad(floor(pg_temp.videos() / 20 * power(random(), 2.5))::int::text, 22, '0') AS channel_id,
    pg_temp.at() - interval '1 hour' * (0.2 + 26000 * power(random(), 1.5)) AS born_at,
    (ARRAY[24, 10, 20, 22, 17, 27, 28, 1, 2, 15, 19, 23, 25, 26, 29])[1 + floor(15 * power(random(), 2))::int]
        AS category_id,
    CASE WHEN random() < 0.4 THEN 5 + floor(175 * random()) ELSE 181 + floor(7000 * random()) END::int AS duration_s,
    CASE WHEN n % 2000 = 0 THEN 'live' WHEN n % 3000 = 1 THEN 'upcoming' ELSE 'none' END AS broadcast,
    least(power(1 - random(), -1 / 1.1) - 1, 1e6) AS pace, random() AS luck,
    floor(greatest(pg_temp.videos() / 5, 20) * power(random(), 3))::int + 1 AS topic
FROM generate_series(1, pg_temp.videos()) AS n;

-- name: texts
CREATE TEMPORARY TABLE texts AS
SELECT drawn.n, initcap(string_agg(word, ' ') FILTER (WHERE nth <= 4 + drawn.n % 5)) AS title,
    array_agg(DISTINCT word) FILTER (WHERE nth > 4 + drawn.n % 5) AS tags
FROM (
    SELECT t.n, nth, floor(exp(ln(pg_temp.words()::float8) * random()) - 1)::int AS word_n
    FROM traits AS t CROSS JOIN generate_series(1, 14) AS nth
) AS drawn
JOIN words ON words.n = drawn.word_n
GROUP BY drawn.n;

-- name: indexes of traits
ANALYZE traits; ANALYZE texts;

-- name: videos
INSERT INTO videos (id, channel_id, published_at, discovered_at, refreshed_at, discovered_by, category_id,
    duration_s, view_count, like_count, comment_count, title, live_broadcast_content, tags, description)
SELECT t.id, t.channel_id, t.born_at, least(t.born_at + interval '5 hours', pg_temp.at()), pg_temp.at(), t.topic, t.category_id,
    t.duration_s, (t.pace * 300)::bigint, 10, 2, texts.title, t.broadcast,
    texts.tags || CASE WHEN t.luck < 0.9 THEN ARRAY['Video'] ELSE '{}' END
        || CASE WHEN t.n % 5 = 0 THEN ARRAY['of a fifth'] ELSE '{}' END
        || CASE WHEN t.n % 100 = 7 THEN ARRAY['of a hundredth'] ELSE '{}' END
        || CASE WHEN t.n % 100000 = 1 THEN ARRAY['Rare Find'] ELSE '{}' END,
    repeat(md5(t.id) || ' ', 8)
FROM traits AS t JOIN texts USING (n)
ORDER BY t.n;

-- name: clocks
INSERT INTO video_clock (video_id, channel_id, category_id, zone, interval_h, born_at, next_due_at, metadata_at,
    samples, last_sampled_at, last_at, last_views, velocity, acceleration, weight, relative_velocity, viral_score,
    broadcast, status, gone_at)
SELECT t.id, t.channel_id, t.category_id, z.zone, z.interval_h, t.born_at,
    pg_temp.at() + interval '1 hour' * (z.interval_h * (random() - 0.02)), pg_temp.at(), z.samples,
    pg_temp.at() - interval '1 hour' * (z.interval_h * t.luck), pg_temp.at() - interval '1 hour' * (z.interval_h * t.luck),
    (t.pace * 300 * z.slowness)::bigint, t.pace * z.slowness, t.pace * z.slowness * (random() - 0.5) / 10, 1,
    t.pace * (0.5 + random()), least(0.999, t.pace / (1 + t.pace)), t.broadcast,
    CASE WHEN t.n % 200 = 5 THEN 'gone' ELSE 'live' END, CASE WHEN t.n % 200 = 5 THEN pg_temp.at() END
FROM traits AS t
CROSS JOIN LATERAL (
    SELECT zone_of(pg_temp.at() - t.born_at, 24, 168) AS zone
) AS of_age
JOIN (VALUES (0, 1, 24, 3.0), (1, 6, 16, 1.0), (2, 168, 4, 0.1)) AS z (zone, interval_h, samples, slowness)
    ON z.zone = of_age.zone
ORDER BY t.n;

-- name: samples
INSERT INTO video_stats_log (video_id, sampled_at, views, likes, comments, velocity, methodology)
SELECT t.id, at, (t.pace * z.slowness * 3600 + t.pace * z.slowness * hour * (0.8 + 0.4 * t.luck))::bigint, 10, 2,
    t.pace * z.slowness * (0.6 + 0.8 * random()), 2
FROM traits AS t
JOIN (VALUES (0, 1, 23, 3.0), (1, 6, 27, 1.0), (2, 168, 4, 0.1)) AS z (zone, interval_h, samples, slowness)
    ON z.zone = zone_of(pg_temp.at() - t.born_at, 24, 168)
CROSS JOIN LATERAL (
    SELECT pg_temp.at() - interval '1 hour' * (z.interval_h * (t.luck + nth)) AS at, z.interval_h * (100 - nth) AS hour
    FROM generate_series(0, z.samples) AS nth
) AS h
WHERE at >= t.born_at AND at > pg_temp.at() - interval '30 days'
ORDER BY at;

-- name: forecasts
INSERT INTO video_forecasts (video_id, made_at, views, day_low, day, day_high, day_top, week_low, week, week_high)
SELECT video_id, pg_temp.at() - interval '1 hour' * (60 * random()), last_views, last_views,
    last_views + velocity * 20, last_views + velocity * 40, 0.1, last_views, last_views + velocity * 100,
    last_views + velocity * 200
FROM video_clock
WHERE (zone < 2 OR hashtext(video_id) % 2 = 0);

-- name: forecasts that were settled
INSERT INTO forecast_checks (video_id, made_at, horizon_h, due_at, age_class, views, low, expected, high, actual,
    settled_at)
SELECT video_id, pg_temp.at() - interval '30 hours', 24, pg_temp.at() - interval '6 hours', 3, last_views, 0, 10, 20, 12,
    pg_temp.at() - interval '1 minute' * (300 * random())
FROM video_clock
WHERE hashtext(video_id) % 20 = 0;

-- name: sources
INSERT INTO video_sources (video_id, arm, met_at, is_first, age_h)
SELECT id, (ARRAY['search:topic', 'uploads:feed', 'trending:region'])[1 + n % 3], pg_temp.at(), true, 5
FROM traits;

-- name: clocks of channels
INSERT INTO channel_clock (channel_id, next_due_at, last_at, subscribers, videos, views)
SELECT id, pg_temp.at() + interval '1 day' * random(), pg_temp.at(), (1000 / (random() + 1e-4))::bigint, 20, 100000 FROM channels;

-- name: samples of channels
INSERT INTO channel_stats_log (channel_id, sampled_at, subscribers, videos, views)
SELECT id, pg_temp.at() - interval '1 day' * nth, 1000 - nth, 20, 100000 - nth
FROM channels CROSS JOIN generate_series(0, 20) AS nth;

-- name: events
INSERT INTO events (at, kind, agent, node, payload)
SELECT pg_temp.at() - interval '1 minute' * (20000 - row_number() OVER ()), 'tracker.breakout', 'tracker', 'bench',
    jsonb_build_object('video_id', id, 'age_h', 5, 'views', 1000, 'views_per_hour', pace, 'times_expected', 12)
FROM traits
WHERE n % 50 = 3
LIMIT 20000;
