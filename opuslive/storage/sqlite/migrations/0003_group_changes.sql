-- The groups that a key has been in: from since on, ms since the Unix epoch, its requests count in
-- this group, with NULL in none. A key that has a group already has been in it since 0, as far as
-- is known.
CREATE TABLE group_changes (
    key INTEGER NOT NULL REFERENCES keys,
    since INTEGER NOT NULL,
    group_name TEXT,
    PRIMARY KEY (key, since)
) WITHOUT ROWID;
INSERT INTO group_changes (key, since, group_name)
SELECT key, 0, group_name FROM keys WHERE group_name IS NOT NULL;
