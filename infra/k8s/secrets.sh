#!/bin/sh
# The Secrets of the namespace emo out of infra/secrets.env, each with what its readers need and no more. Run again, it
# replaces them: that is how tokens are rotated, see docs/operations.md. The store's keys must be yours, not those that
# infra/secrets.sh makes up; where pods have a role of the cloud, take both lines out of infra/secrets.env.
set -eu
cd "$(dirname "$0")/.."
test -e secrets.env || { echo "error: there is no infra/secrets.env: infra/secrets.sh makes it" >&2; exit 2; }
secret() { kubectl -n emo create secret generic "$@" --dry-run=client -o yaml | kubectl apply -f -; }
grep -E '^(EMO_TOKEN|AWS_ACCESS_KEY_ID|AWS_SECRET_ACCESS_KEY)=.' secrets.env | secret emo-secrets --from-env-file=/dev/stdin
grep '^RAY_AUTH_TOKEN=.' secrets.env | secret emo-flows --from-env-file=/dev/stdin # runs of flows ask the clusters
sed -n 's/^RAY_AUTH_TOKEN=//p' secrets.env | tr -d '\n' | secret emo-ray-token --from-file=auth_token=/dev/stdin
