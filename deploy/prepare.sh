#!/bin/sh
# Makes .venv ready for `make demo`, `make test`, `make test-kernel`, `make test-system`, `make bench` or `make fuzz`, and installs the Debian
# packages they need when run as root.
#   usage: PYTHON=python3 deploy/prepare.sh demo|test|kernel|system|bench|fuzz
# Run again, it does nothing unless the Python, the dependencies or the C source changed.
set -eu
cd "$(dirname "$0")/.."
purpose=${1:?usage: deploy/prepare.sh demo|test|kernel|system|bench|fuzz}
python=${PYTHON:-python3}

case $purpose in
demo) extras=collector servers="prometheus-alertmanager" ;;
test) extras=collector,dev servers="prometheus-alertmanager prometheus prometheus-node-exporter pigz openssl" ;;
bench) extras=collector,dev
    servers="prometheus-alertmanager prometheus prometheus-node-exporter pigz openssl rasdaemon" ;;
kernel | system) extras=collector,dev servers="" ;;
fuzz) extras=collector,dev,fuzz servers="" ;;
*) echo "deploy/prepare.sh: '$purpose' is none of demo, test, kernel, system, bench and fuzz" >&2; exit 2 ;;
esac

fail() { echo "flipwatch: $1" >&2; exit 1; }

install() { # packages...
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    echo "installing from Debian: $*"
    [ -n "${updated:-}" ] || { apt-get update -qq; updated=yes; }
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

command -v "$python" >/dev/null || fail "$python is not installed; say which to use: make $purpose PYTHON=python3.12"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is too old; flipwatch needs Python 3.11 or newer: make $purpose PYTHON=python3.12"

"$python" -c 'import ensurepip, venv' 2>/dev/null || install python3-venv ||
    fail "$python can't make virtual environments; as root: apt-get install python3-venv"

# Without a compiler flipwatch works too, but verifies records hundreds of times slower; the tests want the fast one.
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
if ! command -v cc >/dev/null || [ ! -e "$header" ]; then
    install gcc libc6-dev python3-dev || echo "flipwatch: no C compiler or no $header: checksums will be slow" >&2
fi

# PyPI has no ready-made LevelDB binding for the newest Pythons; there it is built against Debian's LevelDB.
if [ "$purpose" != demo ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then
    [ -e /usr/include/leveldb/db.h ] && command -v c++ >/dev/null || install libleveldb-dev g++ ||
        fail "LevelDB's headers are missing; as root: apt-get install libleveldb-dev g++"
fi

need() { # purpose, program:package...
    tests=$1 missing=
    shift
    for program in "$@"; do
        PATH=$PATH:/usr/sbin command -v "${program%%:*}" >/dev/null || missing="$missing ${program#*:}"
    done
    case $missing in *aarch64*) missing="$missing libc6-dev-arm64-cross" ;; esac
    [ -z "$missing" ] || install $missing || fail "the $tests tests need these packages; as root: apt-get install$missing"
}

case $purpose in
kernel)
    need kernel qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio depmod:kmod \
        qemu-aarch64:qemu-user aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu \
        rasdaemon:rasdaemon mkfs.btrfs:btrfs-progs mdadm:mdadm ;;
system)
    need system mmdebstrap:mmdebstrap systemd-nspawn:systemd-container \
        qemu-system-x86_64:qemu-system-x86 cpio:cpio depmod:kmod
    [ "$(id -u)" = 0 ] || fail "the system tests boot a container, which takes root" ;;
esac

missing=
for server in $servers; do
    command -v "$server" >/dev/null || missing="$missing $server"
done
if [ -n "$missing" ]; then
    install $missing || echo "flipwatch: not installed and not root, so less can be shown:$missing" >&2
fi

types=tests/dashboards/types
wanted=$("$python" -c 'import sys; print(sys.version)' | cat - setup.cfg setup.py pyproject.toml checksum/*.[ch] agent/*.c agent/version.py $types/*.json | cksum)
[ "$(cat ".venv/ready-$purpose" 2>/dev/null)" = "$wanted" ] && exit 0
if [ -e .venv/bin/python ] && [ "$(.venv/bin/python -V)" != "$("$python" -V)" ]; then
    rm -rf .venv # it was made for another Python
fi
echo "preparing .venv with $("$python" -V)"
[ -e .venv/bin/pip ] || "$python" -m venv .venv
.venv/bin/pip install -q --disable-pip-version-check -e ".[$extras]"
# Grafana's own types, which the dashboards are checked against; node and npm came with the line before.
if [ "$purpose" = test ] && ! (cd $types && PATH=$OLDPWD/.venv/bin:$PATH npm ci --silent --no-audit --no-fund); then
    echo "flipwatch: npm can't fetch @grafana/schema, so the types of the dashboards aren't checked" >&2
    exit 0 # not ready: the next run tries again
fi
echo "$wanted" >".venv/ready-$purpose"
