-- A record whose status is NULL is of a request that still runs, with what is known of it so
-- far; no sum counts it. Its end completes it, or else the next start does. SQLite can't drop a
-- NOT NULL, so the table is made anew.
CREATE TABLE usage_with_open (
    key INTEGER NOT NULL REFERENCES keys,
    time INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    model TEXT,
    status INTEGER,
    latency_ms INTEGER,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_5m_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    PRIMARY KEY (key, time, seq)
) WITHOUT ROWID;
INSERT INTO usage_with_open SELECT * FROM usage;
DROP TABLE usage;
ALTER TABLE usage_with_open RENAME TO usage;

-- What the next start asks for. It holds the requests that run, and so next to nothing.
CREATE INDEX open_usage ON usage (key) WHERE status IS NULL;

-- The sums of hourly, by day: day is the number of whole days since the Unix epoch. What is
-- shown of all keys over a month would else add up as many rows as there were busy hours.
CREATE TABLE daily (
    key INTEGER NOT NULL REFERENCES keys,
    day INTEGER NOT NULL,
    model TEXT NOT NULL,
    tier INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    refusals INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_5m_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    PRIMARY KEY (key, day, model, tier)
) WITHOUT ROWID;
INSERT INTO daily
SELECT key, hour / 24, model, tier, sum(requests), sum(refusals), sum(input_tokens),
    sum(output_tokens), sum(cache_read_tokens), sum(cache_write_5m_tokens),
    sum(cache_write_1h_tokens)
FROM hourly GROUP BY 1, 2, 3, 4;
