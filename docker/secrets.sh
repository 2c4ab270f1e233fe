#!/bin/sh
# Creates the secrets of an installation that do not exist yet. Arguments name the secrets to replace: api, ray, database,
# s3, grafana. Containers that use a replaced secret have to be restarted; see docker/README.md.
set -eu
umask 077
cd "${NORMLAB_SECRETS:-/run/normlab}"
ray=${NORMLAB_RAY_SECRETS:-/run/ray}
random() { python3 -c 'import secrets; print(secrets.token_hex(24), end="")'; }
# Renames the complete file, so that no process reads a partial one.
write() { printf '%s' "$2" >"$1.new"; chmod "${3:-600}" "$1.new"; mv "$1.new" "$1"; }
make() { [ -s "$1" ] || write "$@"; }

for name; do
  case $name in
    api) old=$(cat api_token); write api_token "$(random)"
         # Tokens with other names do not change.
         write api_tokens "$(sed "s/$old/$(cat api_token)/" api_tokens)" ;;
    ray) rm -f "$ray/token" ;;
    database) rm -f database_password database_url ;;
    s3) rm -f s3_access_key s3_secret_key s3_credentials ;;
    grafana) rm -f grafana_password ;;
    *) echo "give any of: api, ray, database, s3, grafana" >&2; exit 2 ;;
  esac
done

make api_token "$(random)"
make api_tokens "admin:$(cat api_token)"
make "$ray/token" "$(random)"
# 644: third-party images read these files as other users.
make database_password "$(random)" 644
make database_url "postgresql://normlab:$(cat database_password)@db/normlab"
make s3_access_key "$(random | cut -c 1-20)" 644
make s3_secret_key "$(random)" 644
make s3_credentials "[default]
aws_access_key_id = $(cat s3_access_key)
aws_secret_access_key = $(cat s3_secret_key)
"
make grafana_password "$(random)" 644
chmod 755 .
