-- The staging tables of an import, in a private temporary database (SQLite).

-- name: staging
-- A fact is one thing said of a video, numbered as in importing.FACTS; `seen` orders what is newer.
CREATE TABLE fact (
    video TEXT, fact INTEGER, seen INTEGER, value, PRIMARY KEY (video, fact)
) WITHOUT ROWID;
CREATE TABLE sample (
    video TEXT, at INTEGER, views INTEGER, likes INTEGER, comments INTEGER, PRIMARY KEY (video, at)
) WITHOUT ROWID;

-- name: put_fact
-- The newest stays, and of equally new ones the greatest, so that the order of rows is of no account.
INSERT INTO fact VALUES (?, ?, ?, ?)
ON CONFLICT (video, fact) DO UPDATE SET seen = excluded.seen, value = excluded.value
WHERE (excluded.seen, excluded.value) > (seen, value);

-- name: put_sample
-- Of two samples of one instant the one with more views stays.
INSERT INTO sample VALUES (?, ?, ?, ?, ?)
ON CONFLICT (video, at) DO UPDATE SET views = excluded.views, likes = excluded.likes, comments = excluded.comments
WHERE (coalesce(excluded.views, -2), coalesce(excluded.likes, -2), coalesce(excluded.comments, -2))
    > (coalesce(views, -2), coalesce(likes, -2), coalesce(comments, -2));

-- name: samples_of
SELECT at, views, likes, comments FROM sample WHERE video = ? ORDER BY at;

-- name: described_videos
-- Every video with its facts in the order of importing.FACTS, by publication: known, or :day_s before the first sample.
SELECT
    video,
    coalesce(published_at, first_sample_at - :day_s) AS instant,
    channel_title_seen,
    title, description, published_at, channel_id, channel_title, subscribers, category_id, tags, duration_s, language,
    removed
FROM (
    SELECT
        video,
        max(CASE fact WHEN 0 THEN value END) AS title,
        max(CASE fact WHEN 1 THEN value END) AS description,
        max(CASE fact WHEN 2 THEN value END) AS published_at,
        max(CASE fact WHEN 3 THEN value END) AS channel_id,
        max(CASE fact WHEN 4 THEN value END) AS channel_title,
        max(CASE fact WHEN 4 THEN seen END) AS channel_title_seen,
        max(CASE fact WHEN 5 THEN value END) AS subscribers,
        max(CASE fact WHEN 6 THEN value END) AS category_id,
        max(CASE fact WHEN 7 THEN value END) AS tags,
        max(CASE fact WHEN 8 THEN value END) AS duration_s,
        max(CASE fact WHEN 9 THEN value END) AS language,
        max(CASE fact WHEN 10 THEN value END) AS removed
    FROM fact
    GROUP BY video
)
LEFT JOIN (SELECT video, min(at) AS first_sample_at FROM sample GROUP BY video) USING (video)
ORDER BY instant, video;
