-- name: comments
-- The last $1 suggestions and comments, newest first: those that nobody has closed or, if $2, all; of category $3 if given.
SELECT id, key, category, text, command, evidence, made_at, updated_at, author, closed_at, closed_by, reason
FROM suggestions
WHERE ($2::boolean OR closed_at IS NULL) AND ($3::text IS NULL OR category = $3)
ORDER BY made_at DESC, id DESC
LIMIT $1;

-- name: of_id
-- The suggestion or comment with the id $1.
SELECT id, key, category, text, command, evidence, made_at, updated_at, author, closed_at, closed_by, reason
FROM suggestions
WHERE id = $1;

-- name: add
-- Add the comment with key $1: category $2, text $3, by $4 as of $5.
INSERT INTO suggestions (key, category, text, evidence, made_at, updated_at, author)
VALUES ($1, $2, $3, '{}', $5, $5, $4)
RETURNING id;

-- name: close
-- Close the suggestion or comment $1 as of $2, by $3, because of $4; not one that is closed already.
UPDATE suggestions
SET closed_at = $2, closed_by = $3, reason = $4
WHERE id = $1 AND closed_at IS NULL;

-- name: on_patterns
-- The last $2 suggestions that rest on patterns, newest first, closed ones too; on the pattern $1 if given.
SELECT id, key, category, text, command, evidence, made_at, updated_at, author, closed_at, closed_by, reason
FROM suggestions
WHERE CASE WHEN $1::text IS NULL THEN evidence -> 'patterns' -> 0 IS NOT NULL ELSE evidence -> 'patterns' ? $1 END
ORDER BY made_at DESC, id DESC
LIMIT $2;
