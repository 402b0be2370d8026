-- When a key came into which group.
CREATE TABLE group_changes (
    key INTEGER NOT NULL REFERENCES keys (key),
    since INTEGER NOT NULL,
    group_name TEXT,
    PRIMARY KEY (key, since)
) WITHOUT ROWID;
INSERT INTO group_changes (key, since, group_name)
    SELECT key, 0, group_name FROM keys WHERE group_name IS NOT NULL;
