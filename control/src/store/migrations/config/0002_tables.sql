CREATE TABLE apps (
  name TEXT PRIMARY KEY, created_ms INTEGER NOT NULL, active TEXT REFERENCES deployments (id), previous TEXT REFERENCES deployments (id)
) STRICT;

CREATE TABLE deployments (
  id TEXT PRIMARY KEY, app TEXT NOT NULL REFERENCES apps (name) ON DELETE CASCADE, version INTEGER NOT NULL,
  created_ms INTEGER NOT NULL, state TEXT NOT NULL CHECK (state IN ('uploaded', 'prepared', 'active', 'retired', 'failed')),
  -- JSON in the edge's vocabulary.
  manifest TEXT NOT NULL,
  message TEXT,
  UNIQUE (app, version)
) STRICT;

CREATE TABLE deployment_blobs (
  deployment TEXT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE, path TEXT NOT NULL, digest TEXT NOT NULL,
  bytes INTEGER NOT NULL, PRIMARY KEY (deployment, path)
) STRICT;
CREATE INDEX deployment_blobs_of_digest ON deployment_blobs (digest);

CREATE TABLE rollouts (
  app TEXT PRIMARY KEY REFERENCES apps (name) ON DELETE CASCADE, deployment TEXT NOT NULL REFERENCES deployments (id),
  percent INTEGER NOT NULL CHECK (percent BETWEEN 0 AND 100), started_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE domains (host TEXT PRIMARY KEY, app TEXT NOT NULL REFERENCES apps (name) ON DELETE CASCADE) STRICT;
CREATE INDEX domains_of_app ON domains (app);

CREATE TABLE env (
  app TEXT NOT NULL REFERENCES apps (name) ON DELETE CASCADE, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (app, name)
) STRICT;

CREATE TABLE flags (name TEXT PRIMARY KEY, version INTEGER NOT NULL, rule TEXT NOT NULL, updated_ms INTEGER NOT NULL) STRICT;
CREATE TABLE settings (name TEXT PRIMARY KEY, version INTEGER NOT NULL, value TEXT NOT NULL, updated_ms INTEGER NOT NULL) STRICT;

CREATE TABLE purges (
  id INTEGER PRIMARY KEY AUTOINCREMENT, created_ms INTEGER NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('url', 'tag', 'everything')), value TEXT NOT NULL
) STRICT;

-- What flags and settings were: every version, the newest too. NULL is a deletion.
CREATE TABLE versions (
  kind TEXT NOT NULL CHECK (kind IN ('flag', 'setting')), name TEXT NOT NULL, version INTEGER NOT NULL, value TEXT,
  at_ms INTEGER NOT NULL, actor TEXT NOT NULL, PRIMARY KEY (kind, name, version)
) STRICT;
