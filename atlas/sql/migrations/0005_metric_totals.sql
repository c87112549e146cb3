-- What the events amount to, kept apart from them: totals go on growing when old events are dropped.

CREATE TABLE metric_totals (
    metric text NOT NULL CHECK (length(metric) BETWEEN 1 AND 100),
    labels jsonb NOT NULL CHECK (jsonb_typeof(labels) = 'object'),
    total  double precision NOT NULL CHECK (total >= 0),
    PRIMARY KEY (metric, labels)
) WITH (fillfactor = 50);

-- One row: the event up to which all are counted. Whoever counts holds it.
CREATE TABLE metric_cursor (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    event_id bigint NOT NULL CHECK (event_id >= 0)
) WITH (fillfactor = 10);

INSERT INTO metric_cursor (event_id) VALUES (0);
