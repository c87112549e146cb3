-- What the machines that run Pleiades were doing, minute by minute, and how often its commands and the API were used.

CREATE DOMAIN finite_real AS real CHECK (VALUE > '-infinity' AND VALUE < 'infinity');
CREATE DOMAIN amount AS bigint CHECK (VALUE >= 0);

CREATE TABLE system_metrics (
    id                        bigint GENERATED ALWAYS AS IDENTITY,
    xid                       xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at                        timestamptz NOT NULL,
    node                      text COLLATE "C" NOT NULL CHECK (length(node) BETWEEN 1 AND 100),
    memory_limit_bytes        amount,
    memory_used_bytes         amount,
    swap_used_bytes           amount,
    disk_free_bytes           amount,
    own_rss_bytes             amount,
    cpus                      finite_real,
    cpu_percent               finite_real,
    load_1                    finite_real,
    load_5                    finite_real,
    load_15                   finite_real,
    memory_percent            finite_real,
    swap_percent              finite_real,
    disk_percent              finite_real,
    received_bytes_per_s      finite_real,
    sent_bytes_per_s          finite_real,
    received_packets_per_s    finite_real,
    sent_packets_per_s        finite_real,
    disk_read_bytes_per_s     finite_real,
    disk_written_bytes_per_s  finite_real,
    temperature_c             finite_real,
    battery_percent           finite_real,
    on_battery                boolean,
    processes                 json CHECK (json_typeof(processes) = 'array'),
    PRIMARY KEY (xid, id)
) WITH (
    -- Rows are only added, and deleted by age.
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_analyze_scale_factor = 0.05
);

COMMENT ON TABLE system_metrics IS 'One row for each sample of a host; a figure that it does not have is NULL';
COMMENT ON COLUMN system_metrics.xid IS 'The transaction that wrote it: rows are read in the order of (xid, id) up to the oldest one still open';
COMMENT ON COLUMN system_metrics.cpus IS 'How many processors may be used, by the container''s limit if it has one';
COMMENT ON COLUMN system_metrics.memory_limit_bytes IS 'The container''s limit, or else the host''s memory';
COMMENT ON COLUMN system_metrics.own_rss_bytes IS 'Resident memory of the process that took the sample, and of those that it started';
COMMENT ON COLUMN system_metrics.processes IS 'The busiest programs as [name, percent of a processor, resident bytes]; as text, which is half of jsonb';

CREATE INDEX system_metrics_by_node ON system_metrics (node, at);
CREATE INDEX system_metrics_by_time ON system_metrics (at);

CREATE TABLE application_usage (
    day     date NOT NULL,
    kind    text COLLATE "C" NOT NULL CHECK (kind IN ('command', 'call')),
    name    text COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    count   amount NOT NULL,
    errors  amount NOT NULL CHECK (errors <= count),
    seconds finite NOT NULL CHECK (seconds >= 0),
    last_at timestamptz NOT NULL,
    PRIMARY KEY (day, kind, name)
) WITH (fillfactor = 70);

COMMENT ON TABLE application_usage IS 'How often commands and methods of the API were used on a UTC day';
