-- Databases of apps, made and migrated through the agent. A name is one database in the whole cluster.
CREATE TABLE databases (
  name TEXT PRIMARY KEY, app TEXT NOT NULL, created_ms INTEGER NOT NULL, deleted_ms INTEGER,
  -- Until then a deleted one can be had back, and its name is not free.
  until_ms INTEGER,
  state TEXT NOT NULL CHECK (state IN ('wanted', 'made', 'deleting', 'deleted')),
  message TEXT
) STRICT;
CREATE INDEX databases_of_app ON databases (app);

-- What each deployment needs before it can be prepared.
CREATE TABLE deployment_databases (
  deployment TEXT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE, database TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('waiting', 'ready', 'failed')), message TEXT, PRIMARY KEY (deployment, database)
) STRICT;
CREATE INDEX deployment_databases_waiting ON deployment_databases (deployment) WHERE state = 'waiting';
