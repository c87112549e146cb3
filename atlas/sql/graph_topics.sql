-- What this site's own graph knows of topics, for those who choose among them.

-- name: known
-- What is known of the topics with the keys $1, whose atoms are $2 and whose tags' atoms are $3, in this order: the category that most of
-- their videos have, and the tag that tells most of their community, or else of their tag's.
SELECT k.key, category.name AS category, community.tag AS leading
FROM unnest($1::text[], $2::uuid[], $3::uuid[]) AS k (key, topic, tag)
LEFT JOIN LATERAL (
    SELECT c.name
    FROM incoming AS i
    JOIN atoms AS l ON l.space = 0 AND l.handle = i.link
    JOIN atoms AS c ON c.space = 0 AND c.handle = i.other AND c.type = 'category'
    WHERE i.space = 0 AND i.target = k.topic AND i.type = 'inherits' AND i.position = 1
    ORDER BY l.weight DESC, c.name
    LIMIT 1
) AS category ON TRUE
LEFT JOIN LATERAL (
    SELECT g.tags[1] AS tag
    FROM atom_values AS v
    JOIN graph_communities AS g ON g.number = v.floats[1]::integer
    WHERE v.space = 0 AND v.handle IN (k.topic, k.tag) AND v.key = 'community'
    ORDER BY (v.handle = k.topic) DESC
    LIMIT 1
) AS community ON TRUE
WHERE category.name IS NOT NULL OR community.tag IS NOT NULL;
