-- The limits of a key that are raised for a while: a JSON array of pairs, each of the raised limit's
-- text and of the moment at which the raise is over, in ms since the Unix epoch. What is over stays
-- here until the key is changed next, and binds nobody.
ALTER TABLE keys ADD COLUMN raises TEXT DEFAULT '[]';
