-- Version 2: schedules.

CREATE TABLE schedules (
    id UUID PRIMARY KEY,
    -- The order of making.
    seq BIGINT NOT NULL UNIQUE GENERATED ALWAYS AS IDENTITY,
    -- What it is about, to be looked for.
    label TEXT,
    -- What was asked for.
    plan BYTEA NOT NULL,
    created_at_ms BIGINT NOT NULL,
    -- As numbered in `ScheduleState`; NULL: it starts once, and stands as its task does.
    state SMALLINT,
    next_at_ms BIGINT,
    ended_at_ms BIGINT,
    -- Its task, or the last that it has started.
    task UUID
) WITH (fillfactor = 90);

CREATE INDEX schedules_labelled ON schedules (label, seq) WHERE label IS NOT NULL;
CREATE INDEX schedules_recurring ON schedules (seq) WHERE state IS NOT NULL;
CREATE INDEX schedules_due ON schedules (next_at_ms) WHERE next_at_ms IS NOT NULL;
CREATE INDEX schedules_over ON schedules (ended_at_ms) WHERE ended_at_ms IS NOT NULL;

-- A due time of a recurring schedule, or several in a row of which the same was decided.
CREATE TABLE occurrences (
    schedule UUID NOT NULL,
    due_at_ms BIGINT NOT NULL,
    last_due_at_ms BIGINT NOT NULL,
    times BIGINT NOT NULL,
    -- As numbered in `Decision`.
    decision SMALLINT NOT NULL,
    reason TEXT,
    decided_at_ms BIGINT NOT NULL,
    task UUID,
    PRIMARY KEY (schedule, due_at_ms)
);

CREATE INDEX occurrences_decided ON occurrences (decided_at_ms);
