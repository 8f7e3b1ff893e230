#!/usr/bin/env bash
# Run once by the database's image, on the empty database: the role as which the service logs in. It owns nothing; what
# it may do comes from vlaapi_app and vlaapi_eraser, to which the migrations grant it.
set -euo pipefail

psql --set=ON_ERROR_STOP=1 --no-psqlrc --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" \
  --set=password="$(cat /run/secrets/service-password)" <<'SQL'
create role vlaapi_app nologin;
create role vlaapi_eraser nologin;
create role consentd login password :'password' in role vlaapi_app, vlaapi_eraser;
SQL
