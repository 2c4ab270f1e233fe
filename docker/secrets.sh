#!/bin/sh
# Makes the secrets of an installation, once: what is there already stays.
set -eu
umask 077
cd "${1:-/run/normlab}"
random() { python3 -c 'import secrets; print(secrets.token_hex(24), end="")'; }
make() { [ -s "$1" ] || { printf '%s' "$2" >"$1.new"; mv "$1.new" "$1"; }; }
make database_password "$(random)"
make database_url "postgresql://normlab:$(cat database_password)@db/normlab"
make ray_token "$(random)"
make api_token "$(random)"
make api_tokens "admin:$(cat api_token)"
# The database server reads its password as a user of its own.
chmod 755 . && chmod 644 database_password
