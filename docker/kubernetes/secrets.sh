#!/bin/sh
# Creates the secrets of an installation on Kubernetes that do not exist yet. Writes no files.
# For another database, give its URL: DATABASE_URL=postgresql://user:password@host/name docker/kubernetes/secrets.sh
set -eu
namespace=${NAMESPACE:-normlab}
random() { openssl rand -hex 24; }
there() { kubectl --namespace "$namespace" get secret "$1" >/dev/null 2>&1; }
make() { kubectl --namespace "$namespace" create secret generic "$@"; }

kubectl get namespace "$namespace" >/dev/null 2>&1 || kubectl create namespace "$namespace"
there normlab || {
  password=$(random) token=$(random)
  make normlab --from-literal=database_password="$password" --from-literal=api_token="$token" \
    --from-literal=database_url="${DATABASE_URL:-postgresql://normlab:$password@db/normlab}" \
    --from-literal=api_tokens="admin:$token"
}
# KubeRay defines the name of the key.
there normlab-ray || make normlab-ray --from-literal=auth_token="$(random)"
echo "The token of the api: kubectl --namespace $namespace get secret normlab -o jsonpath={.data.api_token} | base64 -d"
