-- What visitors have written about a word.
CREATE TABLE note (
    id INTEGER PRIMARY KEY,
    word TEXT NOT NULL,
    author TEXT NOT NULL,
    body TEXT NOT NULL CHECK (length(body) BETWEEN 1 AND 500),
    written_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ'))
);

CREATE INDEX note_by_word ON note (word, id);
