-- The revision each was last changed at: its ETag. Those that were there before have the first.
ALTER TABLE apps ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
ALTER TABLE domains ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
ALTER TABLE env ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
