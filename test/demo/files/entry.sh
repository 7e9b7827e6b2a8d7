#!/bin/sh
# Starts PostgreSQL; the first time on an empty volume, makes the database.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password
	initdb --data-checksums --username=shop --pwfile=/tmp/password --auth=scram-sha-256 --encoding=UTF8 --locale=C >/dev/null
	echo 'CREATE DATABASE shop' | postgres --single -c log_checkpoints=off postgres >/dev/null
fi
postgres -c config_file=/etc/shop/postgresql.conf &
server=$!
# TERM would wait for all clients to leave; INT ends their sessions.
trap 'kill -INT $server' TERM INT
wait $server || wait $server || exit 1
