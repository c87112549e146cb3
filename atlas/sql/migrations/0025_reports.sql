-- Weekly reports, kept with their data so that none is lost when the vault refuses it; and comments by people among the
-- suggestions, and who closed what and why.

CREATE TABLE reports (
    week         text COLLATE "C" PRIMARY KEY CHECK (week ~ '^[0-9]{4}-W(0[1-9]|[1-4][0-9]|5[0-3])$'),
    begins_at    timestamptz NOT NULL,
    ends_at      timestamptz NOT NULL CHECK (ends_at > begins_at),
    made_at      timestamptz NOT NULL,
    summary      text NOT NULL CHECK (length(summary) BETWEEN 1 AND 4000),
    data         json NOT NULL CHECK (json_typeof(data) = 'object'),
    objects      text[] NOT NULL DEFAULT '{}',
    refusal      text CHECK (length(refusal) BETWEEN 1 AND 1000),
    has_names    boolean NOT NULL,
    announced_at timestamptz
);

COMMENT ON TABLE reports IS 'One row for each week: what the report says, and the objects of the vault that show it';
COMMENT ON COLUMN reports.week IS 'The ISO week, such as 2026-W48';
COMMENT ON COLUMN reports.data IS 'The whole report: HTML and Markdown can be made of it again';
COMMENT ON COLUMN reports.objects IS 'Empty while the vault refuses them';
COMMENT ON COLUMN reports.refusal IS 'Why the vault refused them';
COMMENT ON COLUMN reports.has_names IS 'Whether it names videos: what YouTube told of them is kept for as long as other metadata';
COMMENT ON COLUMN reports.announced_at IS 'When people were told: a report written again is not announced again';

ALTER TABLE suggestions
    ADD COLUMN author    text CHECK (length(author) BETWEEN 1 AND 100),
    ADD COLUMN closed_by text CHECK (length(closed_by) BETWEEN 1 AND 100),
    ADD COLUMN reason    text CHECK (length(reason) BETWEEN 1 AND 2000),
    ADD CHECK (closed_at IS NOT NULL OR (closed_by IS NULL AND reason IS NULL));

COMMENT ON COLUMN suggestions.author IS 'Who wrote the comment; NULL for what the system suggests';
COMMENT ON COLUMN suggestions.reason IS 'Why it was closed';

-- Whoever follows the comments reads them again then.
CREATE FUNCTION tell_of_comments() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('comments', '');
    RETURN NULL;
END
$$;

CREATE TRIGGER comments_are_told_of AFTER INSERT OR UPDATE OR DELETE ON suggestions
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_comments();
