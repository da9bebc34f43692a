#!/bin/sh
# PostgreSQL and Redis for the chaos suite: their programs only, not the services that Debian starts.
postgres() { command -v postgres || ls /usr/lib/postgresql/*/bin/postgres; }
present() { command -v redis-server && postgres; }

present >/dev/null 2>&1 && exit 0
if [ -z "$NO_INSTALL" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing PostgreSQL and Redis with apt-get, as root (NO_INSTALL=1 prevents it)"
    # Without a policy that forbids it, Debian starts what it installs, on ports that others may need.
    policy=/usr/sbin/policy-rc.d
    [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made=$policy; }
    { apt-get update -qq && apt-get install -qq --no-install-recommends postgresql redis-server; } >/dev/null 2>&1
    [ -z "$made" ] || rm -f "$made"
    present >/dev/null 2>&1 && exit 0
fi
echo "The chaos suite needs the programs of PostgreSQL and Redis (postgres, initdb, redis-server): install" \
    "them, for example with: apt-get install postgresql redis-server" >&2
exit 1
