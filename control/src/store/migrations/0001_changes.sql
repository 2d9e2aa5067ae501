-- What every change of a database of the platform's needs.

-- Raised by every change, in its transaction.
CREATE TABLE revision (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL) STRICT;
INSERT INTO revision VALUES (1, 0);

-- A change writes here how many rows its last statement has changed: none undoes it.
CREATE TABLE expectation (one INTEGER PRIMARY KEY CHECK (one = 1), met INTEGER NOT NULL CHECK (met > 0)) STRICT;
INSERT INTO expectation VALUES (1, 1);

-- Changes that are on their way to the audit log: written with the change, taken away with a later one.
CREATE TABLE unaudited (
  number INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL,
  detail TEXT NOT NULL
) STRICT;
