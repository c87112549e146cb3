-- Why exchanges fail that this site begins, for people to see.

CREATE TABLE federation_failures (
    place     text COLLATE "C" PRIMARY KEY CHECK (length(place) BETWEEN 1 AND 300),
    node      text COLLATE "C" NOT NULL CHECK (length(node) <= 100),
    failed_at timestamptz NOT NULL,
    told      text NOT NULL CHECK (length(told) BETWEEN 1 AND 500)
);

COMMENT ON TABLE federation_failures IS 'Places of peers where the last exchange that this site began has failed; a success deletes the row';
COMMENT ON COLUMN federation_failures.node IS 'Who was there when it last answered; empty if it never did';
