-- Version 3: what is queued may be too late as well.

CREATE INDEX tasks_queued_to_expire ON tasks (expires_at_ms)
    WHERE state = 1 AND expires_at_ms IS NOT NULL;
