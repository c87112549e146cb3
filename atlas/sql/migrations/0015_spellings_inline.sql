-- Counting a topic's spellings is part of the statement that adds mentions: a function called for each topic took most of
-- the time that a page of results costs the server.

DROP FUNCTION with_spellings(jsonb, jsonb);
DROP FUNCTION commonest_spelling(jsonb, text);
