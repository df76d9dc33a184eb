#!/bin/sh
# install.sh - put the programs, their other names and the manual pages where they belong
#
# sh install.sh              below /usr/local; what must be built before: cargo build --release --locked
# sh install.sh --uninstall  takes the same files away again
#
# PREFIX is used in place of /usr/local, and DESTDIR stands before every path, as packagers know it. The user doorpost
# and the folders of the queue are made where no DESTDIR is given, that is on this machine and as root.

set -eu

CDPATH='' cd -- "$(dirname -- "$0")"
prefix=${DESTDIR-}${PREFIX:-/usr/local}
sbin=$prefix/sbin
bin=$prefix/bin
man=$prefix/share/man
programs='smtpsrvr qmqpd pop3d submit deliver smtpd doorpost-queue doorpost-check checkaddr'
# name:program, as one program knows by its name what it is to do.
links='sendmail:submit mailq:submit newaliases:submit qmail-queue:submit qmtpd:qmqpd lmtpsrvr:smtpsrvr rsmtpsrvr:smtpsrvr'
# These are for people, who have no sbin in their PATH.
commands='sendmail mailq newaliases'

case "${1-}" in
'')
	# The target folder may be named by an environment variable or by a file of cargo's.
	built=${CARGO_TARGET_DIR:-target}/release
	[ -x "$built/smtpsrvr" ] || built=$(cargo metadata --locked --no-deps --format-version 1 |
		sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release
	if [ ! -x "$built/smtpsrvr" ]; then
		echo "install.sh: no program in $built; first: cargo build --release --locked (CARGO_TARGET_DIR names the folder)" >&2
		exit 66
	fi
	echo "Installing the programs of $built"
	# Folders that are there keep their mode.
	for folder in "$sbin" "$bin" "$man/man1" "$man/man5" "$man/man8" "${DESTDIR-}/etc/doorpost"; do
		[ -d "$folder" ] || install -d "$folder"
	done
	for program in $programs; do install "$built/$program" "$sbin/"; done
	for link in $links; do ln -sf "${link#*:}" "$sbin/${link%:*}"; done
	for command in $commands; do ln -sf ../sbin/submit "$bin/$command"; done
	for page in man/*; do install -m 644 "$page" "$man/man${page##*.}/"; done
	[ -z "${DESTDIR-}" ] || exit 0
	id doorpost >/dev/null 2>&1 ||
		useradd --system --no-create-home --home-dir /var/spool/doorpost --shell /usr/sbin/nologin doorpost
	# Those that are there may have another owner (mail_owner in main.cf).
	[ -d /var/spool/doorpost ] || install -d -m 700 -o doorpost -g doorpost /var/spool/doorpost
	# So that every user can hand in mail.
	[ -d /var/spool/doorpost-drop ] || install -d -o doorpost -m 1733 /var/spool/doorpost-drop
	;;
--uninstall)
	for program in $programs; do rm -f "$sbin/$program"; done
	for link in $links; do rm -f "$sbin/${link%:*}"; done
	for command in $commands; do rm -f "$bin/$command"; done
	for page in man/*; do rm -f "$man/man${page##*.}/${page#man/}"; done
	;;
*)
	echo "usage: [DESTDIR=folder] [PREFIX=folder] sh install.sh [--uninstall]" >&2
	exit 64
	;;
esac
