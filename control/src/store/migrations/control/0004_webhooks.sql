-- Whom to tell of what happens. The secret is encrypted as those in `secrets` are; see docs/formats/secret.md.
CREATE TABLE webhooks (
  id TEXT PRIMARY KEY, url TEXT NOT NULL, created_ms INTEGER NOT NULL,
  -- JSON list of words such as deployment.activated.
  events TEXT NOT NULL,
  -- Id of the key the secret is encrypted with.
  key TEXT NOT NULL, encrypted BLOB NOT NULL
) STRICT;

-- What each is told: written with the audit log's entry, in its transaction.
CREATE TABLE webhook_deliveries (
  number INTEGER PRIMARY KEY AUTOINCREMENT, webhook TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
  -- The entry of the audit log it is about.
  entry INTEGER NOT NULL,
  event TEXT NOT NULL, body TEXT NOT NULL, created_ms INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('waiting', 'delivered', 'failed')),
  tries INTEGER NOT NULL DEFAULT 0,
  -- When it is tried next, or was tried last.
  at_ms INTEGER NOT NULL,
  -- Of the last answer.
  status INTEGER, message TEXT, UNIQUE (webhook, entry)
) STRICT;
CREATE INDEX webhook_deliveries_waiting ON webhook_deliveries (at_ms) WHERE state = 'waiting';
