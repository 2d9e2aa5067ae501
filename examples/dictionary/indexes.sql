-- Made after the tables are filled, which is faster than keeping them while filling.

CREATE UNIQUE INDEX word_by_lemma ON word (lemma);
CREATE INDEX word_by_initial ON word (initial, lemma);
CREATE INDEX sense_by_synset ON sense (synset);

INSERT INTO search (search) VALUES ('rebuild');
INSERT INTO search (search) VALUES ('optimize');
