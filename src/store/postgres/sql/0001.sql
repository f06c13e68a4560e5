-- The tables of version 1. Times are milliseconds since 1970, UTC, and come from the processes:
-- the database's own clock decides nothing.

CREATE TABLE tasks (
    id UUID PRIMARY KEY,
    -- The order of submission.
    seq BIGINT NOT NULL UNIQUE GENERATED ALWAYS AS IDENTITY,
    kind TEXT NOT NULL,
    -- '': any worker that knows the kind.
    endpoint TEXT NOT NULL,
    payload BYTEA NOT NULL,
    -- As numbered in `TaskState`; NULL: that of the task it follows.
    state SMALLINT,
    attempt BIGINT NOT NULL DEFAULT 0,
    failures BIGINT NOT NULL DEFAULT 0,
    failures_max BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    run_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT,
    queued_at_ms BIGINT,
    started_at_ms BIGINT,
    finished_at_ms BIGINT,
    -- Of an outside worker.
    deadline_ms BIGINT,
    owner UUID,
    progress SMALLINT NOT NULL DEFAULT 0,
    result_bytes BIGINT,
    result_head BYTEA,
    error TEXT,
    -- A task that is pending, queued, running or finished, and follows no other: when it ends
    -- otherwise, nothing follows it any more.
    follows UUID,
    -- SHA-256 of the key.
    key_hash BYTEA,
    is_watched BOOLEAN NOT NULL,
    -- It is watched, or one that follows it is.
    is_told BOOLEAN NOT NULL,
    -- The transaction of its last change, if it is told.
    changed_in XID8,
    -- Orders the changes of one transaction.
    place INT NOT NULL,
    has_parts BOOLEAN NOT NULL DEFAULT false,
    CHECK ((state IS NULL) = (follows IS NOT NULL))
) WITH (
    -- A row is written some four times, mostly soon: room for its next version on its page.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_insert_scale_factor = 0.2,
    autovacuum_analyze_scale_factor = 0.05
);

-- What a worker may claim, and what a dispatcher takes, in due order.
CREATE INDEX tasks_due_of_kind ON tasks (endpoint, kind, run_at_ms, seq) WHERE state = 0;
CREATE INDEX tasks_due ON tasks (run_at_ms, seq) WHERE state = 0;
CREATE INDEX tasks_to_expire ON tasks (expires_at_ms) WHERE state = 0 AND expires_at_ms IS NOT NULL;
CREATE INDEX tasks_queued ON tasks (queued_at_ms) WHERE state = 1;
CREATE INDEX tasks_owned ON tasks (owner) WHERE owner IS NOT NULL;
CREATE INDEX tasks_outside ON tasks (deadline_ms) WHERE deadline_ms IS NOT NULL;
CREATE INDEX tasks_ended ON tasks (finished_at_ms) WHERE finished_at_ms IS NOT NULL;
CREATE INDEX tasks_told ON tasks (changed_in, place) WHERE changed_in IS NOT NULL;
CREATE INDEX tasks_following ON tasks (follows, seq) WHERE follows IS NOT NULL;
-- One task of a key runs, or has been done.
CREATE UNIQUE INDEX tasks_leading ON tasks (key_hash)
    WHERE key_hash IS NOT NULL AND state IN (0, 1, 2, 3);

CREATE TABLE parts (
    id UUID NOT NULL REFERENCES tasks ON DELETE CASCADE,
    attempt BIGINT NOT NULL,
    index BIGINT NOT NULL,
    bytes BYTEA NOT NULL,
    PRIMARY KEY (id, attempt, index)
);
-- Compressing costs more than it brings.
ALTER TABLE parts ALTER bytes SET STORAGE EXTERNAL;

CREATE TABLE workers (
    id UUID PRIMARY KEY,
    beats BIGINT NOT NULL,
    buried_at_ms BIGINT
) WITH (fillfactor = 50);

-- The latest wall time that any process has told.
CREATE TABLE clock (
    is_only BOOLEAN PRIMARY KEY DEFAULT true CHECK (is_only),
    seen_ms BIGINT NOT NULL
);
INSERT INTO clock (seen_ms) VALUES (-9223372036854775808);

-- A task as it is shown: one that follows shows how the other one stands.
CREATE VIEW shown AS
    SELECT t.id, t.seq, t.kind, t.endpoint, t.payload, t.failures, t.failures_max, t.created_at_ms,
        t.run_at_ms, t.expires_at_ms, t.follows, t.is_watched,
        COALESCE(t.state, l.state) AS state,
        CASE WHEN t.follows IS NULL THEN t.attempt ELSE l.attempt END AS attempt,
        CASE WHEN t.follows IS NULL THEN t.started_at_ms ELSE l.started_at_ms END AS started_at_ms,
        CASE WHEN t.follows IS NULL THEN t.finished_at_ms ELSE l.finished_at_ms END
            AS finished_at_ms,
        CASE WHEN t.follows IS NULL THEN t.owner ELSE l.owner END AS owner,
        CASE WHEN t.follows IS NULL THEN t.progress ELSE l.progress END AS progress,
        CASE WHEN t.follows IS NULL THEN t.result_bytes ELSE l.result_bytes END AS result_bytes,
        CASE WHEN t.follows IS NULL THEN t.result_head ELSE l.result_head END AS result_head,
        CASE WHEN t.follows IS NULL THEN t.error ELSE l.error END AS error
    FROM tasks t LEFT JOIN tasks l ON l.id = t.follows;
