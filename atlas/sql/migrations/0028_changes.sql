-- The change feed of patterns: each row says which transaction changed it last. A reader takes what transactions changed that
-- have all ended, in their order, and so misses nothing, however many write at once.

ALTER TABLE patterns ADD COLUMN changed xid8 NOT NULL DEFAULT pg_current_xact_id();
ALTER TABLE pattern_evidence ADD COLUMN changed xid8 NOT NULL DEFAULT pg_current_xact_id();

COMMENT ON COLUMN patterns.changed IS
    'The transaction that last changed what it says, pinned, forgot or remembered it, or deleted evidence of it';
COMMENT ON COLUMN pattern_evidence.changed IS 'The transaction that last changed the row';

CREATE INDEX patterns_by_change ON patterns (changed, id);
CREATE INDEX pattern_evidence_by_change ON pattern_evidence (changed, pattern_id);

-- New rows have the default, so that a copy of the table keeps what it holds.
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed := pg_current_xact_id();
    RETURN NEW;
END $$;

-- Importance changes whenever a pattern is used; it is no change of what is known.
CREATE TRIGGER patterns_note_change BEFORE UPDATE OF version, pinned, forgotten_at, remembered_at ON patterns
FOR EACH ROW EXECUTE FUNCTION note_change();

CREATE TRIGGER pattern_evidence_notes_change BEFORE UPDATE OF pos, neg, sum_reward, last_seen, version ON pattern_evidence
FOR EACH ROW EXECUTE FUNCTION note_change();

-- A row that is gone can't say so: its pattern does. In the order of the ids, so that no two wait for each other.
CREATE FUNCTION note_loss_of_evidence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH losing AS MATERIALIZED (
        SELECT id FROM patterns
        WHERE id IN (SELECT pattern_id FROM gone) AND changed <> pg_current_xact_id()
        ORDER BY id FOR NO KEY UPDATE
    )
    UPDATE patterns AS p SET changed = pg_current_xact_id() FROM losing WHERE p.id = losing.id;
    RETURN NULL;
END $$;

CREATE TRIGGER pattern_evidence_notes_loss AFTER DELETE ON pattern_evidence
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION note_loss_of_evidence();

CREATE FUNCTION tell_of_patterns() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('patterns', '');
    RETURN NULL;
END $$;

CREATE TRIGGER tell_of_patterns AFTER INSERT OR UPDATE OF version, pinned, forgotten_at, remembered_at OR DELETE ON patterns
FOR EACH STATEMENT EXECUTE FUNCTION tell_of_patterns();

CREATE TRIGGER tell_of_evidence
AFTER INSERT OR UPDATE OF pos, neg, sum_reward, last_seen, version OR DELETE ON pattern_evidence
FOR EACH STATEMENT EXECUTE FUNCTION tell_of_patterns();

-- Which transactions' numbers these are: of which server, since which failover, in which database, since which restoration.
CREATE FUNCTION database_identity() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat_ws(':',
        (SELECT system_identifier FROM pg_control_system()),
        CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END,
        (SELECT oid FROM pg_database WHERE datname = current_database()),
        'patterns'::regclass::oid
    )
$$;

ALTER TABLE site ADD COLUMN identity text;

COMMENT ON COLUMN site.identity IS
    'What database_identity() was when all numbers of transactions were made here; it differs in a copy of the database';

UPDATE site SET identity = database_identity();

-- Only one learner is at work at a time. Whoever asks for another is told of it.
ALTER TABLE site ADD COLUMN learner_run text CHECK (length(learner_run) BETWEEN 1 AND 100);

COMMENT ON COLUMN site.learner_run IS 'The id of the run of the learner that began last';
