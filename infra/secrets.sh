#!/bin/sh
# infra/secrets.env out of infra/secrets.example.env: a random value wherever none stands. One that is there stays as it is.
set -eu
cd "$(dirname "$0")"
if test -e secrets.env; then
    echo "infra/secrets.env is there already; to make another, move it away first" >&2
    exit 0
fi
umask 077
while IFS= read -r line; do
    case $line in
    \#*) ;;
    *=) echo "$line$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" ;;
    *) echo "$line" ;;
    esac
done <secrets.example.env >secrets.env.part
mv secrets.env.part secrets.env
echo "infra/secrets.env is made; only you can read it" >&2
