-- name: append
-- Append lines of the node $1, given column by column ($2 to $7), in order; returns the last id.
WITH appended AS (
    INSERT INTO log_lines (at, node, level, logger, agent, run, text)
    SELECT new.at, $1, new.level, new.logger, new.agent, new.run, new.text
    FROM unnest($2::timestamptz[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::text[])
        WITH ORDINALITY AS new (at, level, logger, agent, run, text, nth)
    ORDER BY new.nth
    RETURNING id
)
SELECT max(id) FROM appended;

-- name: trim
-- Delete the lines up to the id $1.
DELETE FROM log_lines WHERE id <= $1;

-- name: latest
-- The last $1 lines of at least the level $2, newest first. Reads the whole table at worst, which is kept short.
SELECT id, at, node, level, logger, agent, run, text
FROM log_lines
WHERE level >= $2
ORDER BY id DESC
LIMIT $1;
