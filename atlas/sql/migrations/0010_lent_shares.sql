-- The ring of look-backs has no agent yet: until one asks for units, the other rings may spend its share.

ALTER TABLE quota_ledger ADD COLUMN archeology_asked boolean NOT NULL DEFAULT false;

COMMENT ON COLUMN quota_ledger.archeology_asked IS
    'Whether archeology asked for units of the bucket on this day. While it has not, nor on the day before, its share is lent.';

-- The units that a ring may still reserve in an account `l` (NULL: nothing was spent on that day yet). `allowance` is what
-- pace admits of its own share, `with_loan` of that and its part of archeology's. What hunting and tracking spent beyond
-- their own limits of the day was archeology's, and counts against it.
CREATE FUNCTION ring_room(
    l quota_ledger, ring text, project_limit integer, allowance integer, with_loan integer,
    hunting_limit integer, tracking_limit integer
) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN least(
    project_limit - coalesce(l.used + l.reserved, 0),
    CASE WHEN l.archeology_asked THEN allowance ELSE with_loan END - coalesce(
        CASE ring
            WHEN 'hunting' THEN l.hunting_used + l.hunting_reserved
            WHEN 'tracking' THEN l.tracking_used + l.tracking_reserved
            WHEN 'archeology' THEN l.archeology_used + l.archeology_reserved
                + greatest(0, l.hunting_used + l.hunting_reserved - hunting_limit)
                + greatest(0, l.tracking_used + l.tracking_reserved - tracking_limit)
        END,
        0
    )
);
