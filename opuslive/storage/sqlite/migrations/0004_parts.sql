-- What other models than the one that answered used of a request: one that a tool asked, or one that
-- declined before another took its place. key, time and seq are those of the request in usage, which
-- it is counted as once; part only tells apart rows of one request. The sums of hours, days and keys
-- have these tokens too, under their own models, and as no request.
CREATE TABLE parts (
    key INTEGER NOT NULL REFERENCES keys,
    time INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    part INTEGER NOT NULL,
    model TEXT,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_5m_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    PRIMARY KEY (key, time, seq, part)
) WITHOUT ROWID;
