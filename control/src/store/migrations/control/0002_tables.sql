-- Of a key only its digest is kept.
CREATE TABLE keys (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL,
  role TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'developer', 'viewer', 'pop')),
  -- The one app it reaches; NULL for all.
  app TEXT,
  -- JSON list of the actions it is confined to; NULL for all its role has.
  actions TEXT,
  created_ms INTEGER NOT NULL, expires_ms INTEGER, used_ms INTEGER, revoked_ms INTEGER
) STRICT;

-- One chain; see docs/formats/audit.md.
CREATE TABLE audit (
  number INTEGER PRIMARY KEY, source TEXT NOT NULL, source_number INTEGER NOT NULL, at_ms INTEGER NOT NULL,
  actor TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL, hash TEXT NOT NULL,
  UNIQUE (source, source_number)
) STRICT;

-- Answers that are given again. Without a status the request is under way, or its process was killed.
CREATE TABLE idempotency (
  caller TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL, created_ms INTEGER NOT NULL, status INTEGER,
  content_type TEXT, body BLOB, PRIMARY KEY (caller, key)
) STRICT;
CREATE INDEX idempotency_by_age ON idempotency (created_ms);

-- Uploaded blobs. One that no deployment names is removed some time after it was last needed.
CREATE TABLE artifacts (digest TEXT PRIMARY KEY, bytes INTEGER NOT NULL, needed_ms INTEGER NOT NULL) STRICT;

CREATE TABLE join_tokens (
  id TEXT PRIMARY KEY, digest TEXT NOT NULL, pop TEXT, created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, used_ms INTEGER
) STRICT;

CREATE TABLE pops (
  name TEXT PRIMARY KEY, key TEXT NOT NULL REFERENCES keys (id), created_ms INTEGER NOT NULL,
  seen_ms INTEGER, revision INTEGER NOT NULL DEFAULT 0, version TEXT, position TEXT,
  -- JSON, as the PoP says it.
  load TEXT
) STRICT;

CREATE TABLE pop_deployments (
  pop TEXT NOT NULL REFERENCES pops (name) ON DELETE CASCADE, deployment TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('prepared', 'active', 'failed')), message TEXT, reported_ms INTEGER NOT NULL,
  PRIMARY KEY (pop, deployment)
) STRICT;
