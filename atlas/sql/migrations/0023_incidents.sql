-- Incidents: what was wrong from when to when, who was told of it, and who has acknowledged it.

CREATE DOMAIN incident_status AS text CHECK (VALUE IN ('open', 'recovered', 'closed'));
CREATE DOMAIN incident_severity AS text CHECK (VALUE IN ('warning', 'error'));

CREATE TABLE incidents (
    id                    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key                   text COLLATE "C" NOT NULL CHECK (length(key) BETWEEN 1 AND 400),
    component             text NOT NULL CHECK (length(component) BETWEEN 1 AND 40),
    node                  text NOT NULL,
    status                incident_status NOT NULL DEFAULT 'open',
    severity              incident_severity NOT NULL,
    text                  text NOT NULL,
    value                 double precision,
    limit_value           double precision,
    command               text,
    cause                 text,
    opened_at             timestamptz NOT NULL,
    seen_at               timestamptz NOT NULL,
    well_since            timestamptz,
    recovered_at          timestamptz,
    announced_at          timestamptz,
    announced_severity    incident_severity,
    announcements         small_tally NOT NULL DEFAULT 0,
    acknowledged_at       timestamptz,
    acknowledged_severity incident_severity,
    note                  text CHECK (length(note) <= 1000),
    claim                 uuid,
    claim_until           timestamptz,
    attempts              small_tally NOT NULL DEFAULT 0,
    CHECK ((status = 'open') = (recovered_at IS NULL)),
    CHECK ((announced_at IS NULL) = (announced_severity IS NULL)),
    CHECK ((acknowledged_at IS NULL) = (acknowledged_severity IS NULL)),
    CHECK ((claim IS NULL) = (claim_until IS NULL)),
    CHECK (status <> 'closed' OR claim IS NULL)
);

COMMENT ON COLUMN incidents.node IS 'The node whose maintainer saw it last';
COMMENT ON COLUMN incidents.status IS 'recovered: it is over, but people may still have to be told; closed: nothing is left to do';
COMMENT ON COLUMN incidents.cause IS 'The key of the incident that explains it, in whose announcement it is listed';
COMMENT ON COLUMN incidents.well_since IS 'Since when it was not seen any more; after a while that counts as recovered';
COMMENT ON COLUMN incidents.acknowledged_severity IS 'It is silent until it recovers or becomes more severe than this';
COMMENT ON COLUMN incidents.claim_until IS 'Until then, by the server''s clock, whoever holds the claim tells people of it';
COMMENT ON COLUMN incidents.attempts IS 'Claims whose end nobody knows: people may have been told';

CREATE UNIQUE INDEX incidents_open ON incidents (key) WHERE status = 'open';
CREATE INDEX incidents_unfinished ON incidents (id) WHERE status <> 'closed';
CREATE INDEX incidents_by_time ON incidents (opened_at DESC, id DESC);
CREATE INDEX incidents_closed ON incidents (recovered_at) WHERE status = 'closed';
