#!/bin/sh
# Backs up what was deployed: the working tree as it runs, without what its ignore files leave out, and the whole history as one git bundle. Call it at the end of a
# deployment, with the repository and its secret in the environment (VARVE_REPO, VARVE_PASSPHRASE_FILE):
#
#   APP=/srv/shop/current after-deploy.sh
#
# VERSION is the tag that the snapshot gets, by default what git describes; SERIES is the series, by default shop-code. Back again:
#
#   varve restore shop-code@latest:tree /srv/shop/restored
#   varve cat shop-code@latest:history.bundle > /tmp/shop.bundle && git clone /tmp/shop.bundle shop
set -eu
: "${APP:?APP is the folder that was deployed}"
export APP
version=${VERSION:-$(git -C "$APP" describe --tags --always --dirty)}

exec varve backup "${SERIES:-shop-code}" \
	tree="$APP" history.bundle='exec:git -C "$APP" bundle create --quiet - --all' \
	--ignore-file .gitignore --exclude /.git --tag "version=$version"
