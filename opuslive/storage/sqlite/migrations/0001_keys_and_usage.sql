-- What marks a file as a database of OpusLive: "OpLv".
PRAGMA application_id = 0x4f704c76;

-- Settings of this database; 'checksum_key' is the secret that keys' checksums are keyed with,
-- 'probes' counts the writes that only ask whether the disk takes writes again.
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

INSERT INTO meta (name, value) VALUES ('probes', 0);

-- The id and the name stand in this table only: all others refer to a key by its number, which
-- AUTOINCREMENT never gives out twice, so usage can't end up with another key.
-- Times are ms since the Unix epoch. models and limits are JSON arrays of texts.
-- A key that is being erased has erasing = 1 and nothing else left but its number.
CREATE TABLE keys (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE,
    name TEXT UNIQUE,
    prefix TEXT,
    created_at INTEGER,
    secret_hash BLOB,
    enabled INTEGER,
    expires_at INTEGER,
    models TEXT,
    limits TEXT,
    group_name TEXT,
    previous_hash BLOB,
    previous_expires_at INTEGER,
    erasing INTEGER NOT NULL DEFAULT 0
);

-- All that is kept of a request. Clustered by key and time, so that a key's windows, pages and
-- erasure each touch one range. time is the admission, ms since the Unix epoch; seq only tells
-- apart records of the same key and ms. latency_ms is NULL for a refusal: nothing was sent.
CREATE TABLE usage (
    key INTEGER NOT NULL REFERENCES keys,
    time INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    model TEXT,
    status INTEGER NOT NULL,
    latency_ms INTEGER,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_5m_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    PRIMARY KEY (key, time, seq)
) WITHOUT ROWID;

-- Sums of usage, written in the transaction of the records themselves. hour is the number of
-- whole hours since the Unix epoch: for requests and refusals that of the record's time, for
-- tokens that of its end (time + latency_ms). model is '' where usage has NULL. tier is that of
-- the model's price which the size of the requests puts them in: a sum could not tell it.
CREATE TABLE hourly (
    key INTEGER NOT NULL REFERENCES keys,
    hour INTEGER NOT NULL,
    model TEXT NOT NULL,
    tier INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    refusals INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_5m_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    PRIMARY KEY (key, hour, model, tier)
) WITHOUT ROWID;

-- All usage of a key. last_used_at is the latest time of a record.
CREATE TABLE totals (
    key INTEGER PRIMARY KEY REFERENCES keys,
    last_used_at INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    refusals INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_5m_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL
);
