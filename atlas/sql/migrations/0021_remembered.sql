-- When an operator last allowed a forgotten pattern to be learnt again, so that copies agree on which act was the later one.

ALTER TABLE patterns ADD COLUMN remembered_at timestamptz;

COMMENT ON COLUMN patterns.remembered_at IS 'When an operator last let it be learnt again; an earlier tombstone of an operator no longer counts';
