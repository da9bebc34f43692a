#!/bin/sh
# The browser that the tests of the web interface use; they are skipped where it is missing.
command -v chromium >/dev/null && exit 0
if [ -z "$NO_INSTALL" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Chromium with apt-get, as root (NO_INSTALL=1 prevents it)"
    { apt-get update -qq && apt-get install -qq --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1 && exit 0
fi
echo "Chromium is not installed: the tests of the web interface will be skipped."
