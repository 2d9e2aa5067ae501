-- Each app's secrets, for each PoP that has a key; see docs/formats/sealed.md.
CREATE TABLE sealed_secrets (
  app TEXT NOT NULL REFERENCES apps (name) ON DELETE CASCADE, pop TEXT NOT NULL, name TEXT NOT NULL,
  version INTEGER NOT NULL, sealed BLOB NOT NULL,
  -- The PoP's public key, in base64: with another it does not open.
  sealing_key TEXT NOT NULL, PRIMARY KEY (pop, app, name)
) STRICT;
CREATE INDEX sealed_secrets_of_app ON sealed_secrets (app);
