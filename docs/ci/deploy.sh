#!/bin/sh
# Deploys the project of this folder (or of --project FOLDER) from a CI job, and fails when a PoP cannot serve it.
#
#   SELVEDGE_CONTROL   address of control
#   SELVEDGE_TOKEN     a key that may deploy: selvedge keys create ci --for APP --only deploy,read --expires 90d
#
# Options are those of `selvedge deploy`, such as --percent 10. Standard output is what it answers, in JSON.
set -eu
: "${SELVEDGE_CONTROL:?is the address of control}"
: "${SELVEDGE_TOKEN:?is a key that may deploy; keep it in the secrets of the CI}"
exec "${SELVEDGE_EXE:-selvedge}" deploy --json "$@"
