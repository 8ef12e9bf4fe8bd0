#!/bin/sh
# Sees to it that the machine has what the tests need: installs what is missing with apt-get where it may, as root,
# and names it where it may not. With the argument "recipes" also what make recipes needs, and then all of it must be
# there.
set -eu

required="" # Debian packages without which the tests can't run
optional="" # without which some of them check less
command -v cc >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || required="gcc libc6-dev" # the race detector
command -v curl >/dev/null 2>&1 || required="$required curl"
command -v wget >/dev/null 2>&1 || optional="$optional wget"
command -v git >/dev/null 2>&1 || required="$required git"
python=/usr/bin/python3 # the one whose modules Debian's packages install; another may come first in PATH
for module in requests httpx aiohttp socks; do
	$python -c "import $module" >/dev/null 2>&1 || optional="$optional python3-$module"
done
command -v ssh >/dev/null 2>&1 || optional="$optional openssh-client"
nc -h 2>&1 | grep -q -e '-X' || optional="$optional netcat-openbsd" # for ssh
command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 ||
	optional="$optional chromium" # the page
command -v tmux >/dev/null 2>&1 || optional="$optional tmux" # weir top
if [ "$(id -u)" = 0 ] && [ "$(uname)" = Linux ]; then # nobody else may make the networks that these break
	command -v nft >/dev/null 2>&1 || required="$required nftables"
	command -v ip >/dev/null 2>&1 || required="$required iproute2"
	command -v mkfs.ext4 >/dev/null 2>&1 || required="$required e2fsprogs" # and disks
	command -v fsfreeze >/dev/null 2>&1 || required="$required util-linux"
fi

if [ "${1:-}" = recipes ]; then # clients that docs/workers.md has lines for
	command -v scrapy >/dev/null 2>&1 || optional="$optional python3-scrapy"
	$python -m pip --version >/dev/null 2>&1 || optional="$optional python3-pip"
	command -v node >/dev/null 2>&1 || optional="$optional nodejs"
	command -v npm >/dev/null 2>&1 || optional="$optional npm"
	command -v keytool >/dev/null 2>&1 && command -v javac >/dev/null 2>&1 || optional="$optional openjdk-17-jdk-headless"
	required="$required $optional" optional=""
fi

missing=$(echo $required $optional)
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "installing what the tests need: $missing"
	export DEBIAN_FRONTEND=noninteractive
	# Without an fsync for each file: a machine that fails meanwhile is set up anew.
	# shellcheck disable=SC2086 # a list of words
	if apt-get update -qq && apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-unsafe-io $missing; then
		exit 0
	fi
fi
echo "missing for the tests: $missing" >&2
echo "install with: sudo apt-get install $missing" >&2
[ -z "$(echo $required)" ]
