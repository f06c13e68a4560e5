-- Version 4: the tasks of a kind, newest first, however many there are of others.

CREATE INDEX tasks_of_kind ON tasks (kind, seq);
