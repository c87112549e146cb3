-- The file of a catalogue: what creates, fills and reads it (SQLite).

-- name: schema
-- One row per fact; videos are numbered by n in the order of (published_at, id). Instants are seconds since 1970.
-- In samples NULL is not recorded and -1 hidden. Postings are unsigned 32-bit integers, n << 4 | fields, ascending.
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
    removed_at INTEGER
);
CREATE TABLE sample (
    n INTEGER NOT NULL REFERENCES video (n),
    at INTEGER NOT NULL,
    views INTEGER,
    likes INTEGER,
    comments INTEGER,
    PRIMARY KEY (n, at)
) WITHOUT ROWID;
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
INSERT INTO video VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_sample
INSERT INTO sample VALUES (?, ?, ?, ?, ?);

-- name: insert_posting
INSERT INTO posting VALUES (?, ?, ?);

-- name: meta
SELECT key, value FROM meta;

-- name: video_columns
-- What is kept in memory of every video.
SELECT n, id, channel_id, published_at, coalesce(removed_at, 0), coalesce(category_id, 0), coalesce(duration_s, -1)
FROM video
ORDER BY n;

-- name: titles
SELECT title FROM video ORDER BY n;

-- name: samples
SELECT n, at, coalesce(views, -2), coalesce(likes, -2), coalesce(comments, -2) FROM sample ORDER BY n, at;

-- name: video
SELECT
    id, channel_id, title, published_at, description, published_estimated, category_id, tags, duration_s, language,
    removed_at
FROM video
WHERE n = ?;

-- name: channel
SELECT id, title, description, published_at, country, handle, subscribers FROM channel WHERE id = ?;

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
    min(published_at) AS first_published_at,
    max(published_at) AS last_published_at
FROM video;

-- name: summary_of_channels
SELECT count(*) AS channels, count(subscribers) AS channels_with_subscribers FROM channel;

-- name: summary_of_samples
SELECT count(*) AS samples, min(at) AS first_sample_at, max(at) AS last_sample_at FROM sample;

-- name: summary_of_search
SELECT count(DISTINCT term) AS search_terms FROM posting;
