-- The file of a catalogue: what creates, fills and reads it (SQLite).

-- name: schema
-- One row per fact; videos are numbered by n in the order of (published_at, id). Instants are seconds since 1970.
-- Samples are columns of 64-bit integers, in parts that ascend by n and at; -1 is hidden and -2 not recorded.
-- Postings are unsigned 32-bit integers, n << 4 | fields, ascending.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE channel (
    id TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    description TEXT NOT NULL,
    published_at INTEGER NOT NULL,
    country TEXT,
    handle TEXT,
    subscribers INTEGER
) WITHOUT ROWID;
CREATE TABLE video (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    channel_id TEXT NOT NULL REFERENCES channel (id),
    title TEXT NOT NULL,
    description TEXT NOT NULL,
    published_at INTEGER NOT NULL,
    published_estimated INTEGER NOT NULL CHECK (published_estimated IN (0, 1)),
    category_id INTEGER,
    tags TEXT NOT NULL,
    duration_s INTEGER,
    language TEXT,
    removed_at INTEGER,
    scheduled_start_at INTEGER,
    actual_start_at INTEGER,
    actual_end_at INTEGER,
    blocked_in TEXT
);
CREATE TABLE sample_part (
    part INTEGER PRIMARY KEY,
    n BLOB NOT NULL,
    at BLOB NOT NULL,
    views BLOB NOT NULL,
    likes BLOB NOT NULL,
    comments BLOB NOT NULL
);
CREATE TABLE posting (
    term TEXT NOT NULL,
    part INTEGER NOT NULL,
    postings BLOB NOT NULL,
    PRIMARY KEY (term, part)
) WITHOUT ROWID;

-- name: insert_meta
INSERT INTO meta VALUES (?, ?);

-- name: insert_channel
INSERT INTO channel VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: insert_video
INSERT INTO video VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_sample_part
INSERT INTO sample_part (n, at, views, likes, comments) VALUES (?, ?, ?, ?, ?);

-- name: insert_posting
INSERT INTO posting VALUES (?, ?, ?);

-- name: meta
SELECT key, value FROM meta;

-- name: video_columns
-- What is kept in memory of every video.
SELECT
    n, id, channel_id, published_at, coalesce(removed_at, 0), coalesce(category_id, 0), coalesce(duration_s, -1),
    language
FROM video
ORDER BY n;

-- name: broadcasts
-- Premieres and live streams; there are few.
SELECT n, scheduled_start_at, actual_start_at, actual_end_at
FROM video
WHERE coalesce(scheduled_start_at, actual_start_at) IS NOT NULL;

-- name: titles
SELECT title FROM video ORDER BY n;

-- name: sample_parts
SELECT n, at, views, likes, comments FROM sample_part ORDER BY part;

-- name: video
SELECT
    id, channel_id, title, published_at, description, published_estimated, category_id, tags, duration_s, language,
    removed_at, scheduled_start_at, actual_start_at, actual_end_at, blocked_in
FROM video
WHERE n = ?;

-- name: channel
SELECT id, title, description, published_at, country, handle, subscribers FROM channel WHERE id = ?;

-- name: channel_subscribers
SELECT id, subscribers FROM channel;

-- name: channel_countries
SELECT id, country FROM channel;

-- name: blocked
SELECT n, blocked_in FROM video WHERE blocked_in IS NOT NULL;

-- name: channel_id_by_handle
SELECT id FROM channel WHERE handle = ? COLLATE NOCASE;

-- name: postings
SELECT postings FROM posting WHERE term = ? ORDER BY part;

-- name: summary_of_videos
SELECT
    count(*) AS videos,
    total(tags <> '[]') AS videos_with_tags,
    total(published_estimated) AS videos_with_estimated_publication,
    total(removed_at IS NOT NULL) AS videos_removed,
    total(coalesce(scheduled_start_at, actual_start_at) IS NOT NULL) AS videos_broadcast,
    min(published_at) AS first_published_at,
    max(published_at) AS last_published_at
FROM video;

-- name: summary_of_channels
SELECT count(*) AS channels, count(subscribers) AS channels_with_subscribers FROM channel;

-- name: summary_of_search
SELECT count(DISTINCT term) AS search_terms FROM posting;
