-- How requests ended, and how long those took that were served. Of the requests (which were sent
-- on), client_errors were answered with 4xx but 429 and 499, cut with 499, which stands for a
-- client that left, upstream_errors with anything else that is not 2xx. The others were served: a
-- latency_… column counts those that took as long at most, and longer than the column before says.
-- All of it is counted in the hour of the record's time.
--
-- Each table is made anew in the order of its primary key, from another that is read in the order
-- of its own: nothing is sorted, whatever its size, and the memory it takes does not grow.
CREATE TABLE hourly_with_outcomes (
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
    client_errors INTEGER NOT NULL,
    upstream_errors INTEGER NOT NULL,
    cut INTEGER NOT NULL,
    latency_250ms INTEGER NOT NULL,
    latency_500ms INTEGER NOT NULL,
    latency_1s INTEGER NOT NULL,
    latency_2s INTEGER NOT NULL,
    latency_4s INTEGER NOT NULL,
    latency_8s INTEGER NOT NULL,
    latency_15s INTEGER NOT NULL,
    latency_30s INTEGER NOT NULL,
    latency_1m INTEGER NOT NULL,
    latency_2m INTEGER NOT NULL,
    latency_5m INTEGER NOT NULL,
    latency_10m INTEGER NOT NULL,
    latency_more INTEGER NOT NULL,
    PRIMARY KEY (key, hour, model, tier)
) WITHOUT ROWID;
-- The tier of a record is not kept: what there is of a model and an hour goes into the lowest tier
-- that has requests. The sum over the tiers is exact.
INSERT INTO hourly_with_outcomes
SELECT h.key, h.hour, h.model, h.tier,
    h.requests, h.refusals, h.input_tokens, h.output_tokens, h.cache_read_tokens,
    h.cache_write_5m_tokens, h.cache_write_1h_tokens,
    coalesce(sum(u.status BETWEEN 400 AND 498 AND u.status <> 429), 0),
    coalesce(sum(u.status NOT BETWEEN 200 AND 299
        AND (u.status NOT BETWEEN 400 AND 499 OR u.status = 429)), 0),
    coalesce(sum(u.status = 499), 0),
    coalesce(sum(u.status BETWEEN 200 AND 299 AND u.latency_ms BETWEEN 0 AND 250), 0),
    coalesce(sum(u.status BETWEEN 200 AND 299 AND u.latency_ms BETWEEN 251 AND 500), 0),
    coalesce(sum(u.status BETWEEN 200 AND 299 AND u.latency_ms BETWEEN 501 AND 1000), 0),
    coalesce(sum(u.status BETWEEN 200 AND 299 AND u.latency_ms BETWEEN 1001 AND 2000), 0),
    coalesce(sum(u.status BETWEEN 200 AND 299 AND u.latency_ms BETWEEN 2001 AND 4000), 0),
    coalesce(sum(u.status BETWEEN 200 AND 299 AND u.latency_ms BETWEEN 4001 AND 8000), 0),
    coalesce(sum(u.status BETWEEN 200 AND 299 AND u.latency_ms BETWEEN 8001 AND 15000), 0),
    coalesce(sum(u.status BETWEEN 200 AND 299 AND u.latency_ms BETWEEN 15001 AND 30000), 0),
    coalesce(sum(u.status BETWEEN 200 AND 299 AND u.latency_ms BETWEEN 30001 AND 60000), 0),
    coalesce(sum(u.status BETWEEN 200 AND 299 AND u.latency_ms BETWEEN 60001 AND 120000), 0),
    coalesce(sum(u.status BETWEEN 200 AND 299 AND u.latency_ms BETWEEN 120001 AND 300000), 0),
    coalesce(sum(u.status BETWEEN 200 AND 299 AND u.latency_ms BETWEEN 300001 AND 600000), 0),
    coalesce(sum(u.status BETWEEN 200 AND 299 AND u.latency_ms > 600000), 0)
FROM hourly AS h LEFT JOIN usage AS u ON u.key = h.key
    AND u.time >= h.hour * 3600000 AND u.time < (h.hour + 1) * 3600000
    AND coalesce(u.model, '') = h.model AND u.latency_ms IS NOT NULL AND u.status IS NOT NULL
    AND h.tier = (
        SELECT min(tier) FROM hourly AS other WHERE other.key = h.key AND other.hour = h.hour
        AND other.model = h.model AND other.requests > 0
    )
GROUP BY h.key, h.hour, h.model, h.tier;
DROP TABLE hourly;
ALTER TABLE hourly_with_outcomes RENAME TO hourly;

CREATE TABLE daily_with_outcomes (
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
    client_errors INTEGER NOT NULL,
    upstream_errors INTEGER NOT NULL,
    cut INTEGER NOT NULL,
    latency_250ms INTEGER NOT NULL,
    latency_500ms INTEGER NOT NULL,
    latency_1s INTEGER NOT NULL,
    latency_2s INTEGER NOT NULL,
    latency_4s INTEGER NOT NULL,
    latency_8s INTEGER NOT NULL,
    latency_15s INTEGER NOT NULL,
    latency_30s INTEGER NOT NULL,
    latency_1m INTEGER NOT NULL,
    latency_2m INTEGER NOT NULL,
    latency_5m INTEGER NOT NULL,
    latency_10m INTEGER NOT NULL,
    latency_more INTEGER NOT NULL,
    PRIMARY KEY (key, day, model, tier)
) WITHOUT ROWID;
INSERT INTO daily_with_outcomes
SELECT d.key, d.day, d.model, d.tier,
    d.requests, d.refusals, d.input_tokens, d.output_tokens, d.cache_read_tokens,
    d.cache_write_5m_tokens, d.cache_write_1h_tokens,
    coalesce(sum(h.client_errors), 0), coalesce(sum(h.upstream_errors), 0),
    coalesce(sum(h.cut), 0), coalesce(sum(h.latency_250ms), 0),
    coalesce(sum(h.latency_500ms), 0), coalesce(sum(h.latency_1s), 0),
    coalesce(sum(h.latency_2s), 0), coalesce(sum(h.latency_4s), 0),
    coalesce(sum(h.latency_8s), 0), coalesce(sum(h.latency_15s), 0),
    coalesce(sum(h.latency_30s), 0), coalesce(sum(h.latency_1m), 0),
    coalesce(sum(h.latency_2m), 0), coalesce(sum(h.latency_5m), 0),
    coalesce(sum(h.latency_10m), 0), coalesce(sum(h.latency_more), 0)
FROM daily AS d LEFT JOIN hourly AS h ON h.key = d.key
    AND h.hour >= d.day * 24 AND h.hour < (d.day + 1) * 24 AND h.model = d.model AND h.tier = d.tier
GROUP BY d.key, d.day, d.model, d.tier;
DROP TABLE daily;
ALTER TABLE daily_with_outcomes RENAME TO daily;

CREATE TABLE totals_with_outcomes (
    key INTEGER PRIMARY KEY REFERENCES keys,
    last_used_at INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    refusals INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_5m_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    client_errors INTEGER NOT NULL,
    upstream_errors INTEGER NOT NULL,
    cut INTEGER NOT NULL
);
INSERT INTO totals_with_outcomes
SELECT t.key, t.last_used_at,
    t.requests, t.refusals, t.input_tokens, t.output_tokens, t.cache_read_tokens,
    t.cache_write_5m_tokens, t.cache_write_1h_tokens,
    coalesce(sum(d.client_errors), 0), coalesce(sum(d.upstream_errors), 0), coalesce(sum(d.cut), 0)
FROM totals AS t LEFT JOIN daily AS d ON d.key = t.key
GROUP BY t.key;
DROP TABLE totals;
ALTER TABLE totals_with_outcomes RENAME TO totals;

-- The requests that did not go well, of all keys by time: they are few.
CREATE INDEX trouble ON usage (time)
WHERE status IS NOT NULL AND (latency_ms IS NULL OR status NOT BETWEEN 200 AND 299);
