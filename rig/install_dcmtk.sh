#!/bin/sh
# DCMTK checks the exported files as an outsider; tests that need it are skipped where it is missing.
command -v dcmftest >/dev/null && exit 0
if [ -z "$NO_INSTALL" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing DCMTK with apt-get, as root (NO_INSTALL=1 prevents it)"
    { apt-get update -qq && apt-get install -qq --no-install-recommends dcmtk; } >/dev/null 2>&1 && exit 0
fi
echo "DCMTK (dcmftest) is not installed: the tests that check exported files with it will be skipped."
