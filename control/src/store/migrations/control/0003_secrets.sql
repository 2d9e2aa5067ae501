-- Secrets, encrypted; see docs/formats/secret.md. A deleted one stays without its content, so that versions never repeat.
CREATE TABLE secrets (
  app TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, updated_ms INTEGER NOT NULL,
  -- Id of the key it is encrypted with.
  key TEXT NOT NULL, encrypted BLOB, PRIMARY KEY (app, name)
) STRICT;

-- What a PoP's secrets are sealed to, in base64.
CREATE TABLE sealing_keys (pop TEXT PRIMARY KEY REFERENCES pops (name) ON DELETE CASCADE, sealing_key TEXT NOT NULL) STRICT;
