-- The invitations by which holders make the secrets of their keys themselves: a hash of the code, and
-- until when it is good, ms since the Unix epoch. A key whose first secret nobody has made yet has no
-- secret_hash. A row goes when its secret is made, when it expires, and with its key.
CREATE TABLE invitations (
    key INTEGER PRIMARY KEY REFERENCES keys,
    code_hash BLOB NOT NULL,
    expires_at INTEGER NOT NULL
);
