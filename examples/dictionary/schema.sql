-- WordNet 3.1 as tables. Filled once by `cargo xtask demo`; the site only reads them.

-- A word or phrase in lower case. `frequency` is how often it was met in sense-tagged texts; 0 for most.
CREATE TABLE word (
    id INTEGER PRIMARY KEY,
    lemma TEXT NOT NULL,
    initial TEXT NOT NULL,
    frequency INTEGER NOT NULL
);

-- A set of words with one meaning. `words` are separated by "; ", `examples` by line ends.
CREATE TABLE synset (
    id INTEGER PRIMARY KEY,
    part TEXT NOT NULL,
    topic TEXT NOT NULL,
    words TEXT NOT NULL,
    definition TEXT NOT NULL,
    examples TEXT NOT NULL
);

-- A word in one of its meanings; number 1 is the most usual in its part of speech.
CREATE TABLE sense (
    word INTEGER NOT NULL REFERENCES word,
    synset INTEGER NOT NULL REFERENCES synset,
    number INTEGER NOT NULL,
    PRIMARY KEY (word, synset)
) WITHOUT ROWID;

-- `target` is broader, narrower, opposite, … of `source`.
CREATE TABLE relation (
    source INTEGER NOT NULL REFERENCES synset,
    kind TEXT NOT NULL,
    target INTEGER NOT NULL REFERENCES synset,
    PRIMARY KEY (source, kind, target)
) WITHOUT ROWID;

CREATE VIRTUAL TABLE search USING fts5 (
    words, definition, examples,
    content = 'synset', content_rowid = 'id',
    tokenize = 'porter unicode61 remove_diacritics 2'
);
