#!/bin/sh
# quickstart.sh - watch mail come in by SMTP and by QMQP and be read by POP3, without installing anything
#
# sh quickstart.sh          builds doorpost, runs its servers on free ports of 127.0.0.1, sends two messages, reads them
#                           back, says how to connect a mail program, and stays until ^C
# sh quickstart.sh --check  does the same, and ends with status 0 only if both messages came back as they were sent,
#                           from their first header field on, byte for byte
#
# Everything lies in one temporary folder, which is removed at the end. As root nothing runs as root: the programs are
# copied into that folder, which is given to uid and gid 65534, and run as that; so programs must be allowed to run there
# (TMPDIR). As another user they run from where cargo has put them.

set -eu

check=no
case "${1-}" in
--check) check=yes ;;
'') ;;
*)
	echo "usage: sh quickstart.sh [--check]" >&2
	exit 64
	;;
esac

CDPATH='' cd -- "$(dirname -- "$0")"
if ! command -v cargo >/dev/null; then
	echo "quickstart.sh: cargo not found; Rust is at https://www.rust-lang.org/tools/install" >&2
	exit 69
fi
echo "Building the programs (the first time takes some minutes) ..."
cargo build --quiet --locked --release
# The target folder may be named by an environment variable or by a file of cargo's.
target=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
# By itself: as a cargo example it would have all programs built again, with what only tests need.
talk=$target/release/examples/talk
if [ -z "$(find "$talk" -newer examples/talk.rs 2>/dev/null)" ]; then
	mkdir -p "$target/release/examples"
	rustc --edition 2024 -o "$talk" examples/talk.rs
fi

state=$(mktemp -d "${TMPDIR:-/tmp}/doorpost.XXXXXX")
server=''

nap() {
	sleep 0.1 2>/dev/null || sleep 1
}

finish() {
	status=$?
	trap - EXIT INT TERM HUP
	if [ -n "$server" ]; then
		# The first TERM lets sessions end by themselves, the second does not.
		kill "$server" 2>/dev/null || :
		nap
		kill "$server" 2>/dev/null || :
		wait "$server" || :
	fi
	if [ "$status" -ne 0 ] && [ -f "$state/log" ]; then
		echo "quickstart.sh: that did not work; the log says:" >&2
		cat "$state/log" >&2
	fi
	# A deliver that is just about to leave may still write there.
	rm -rf "$state" 2>/dev/null || { sleep 1 && rm -rf "$state"; }
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# Waits for something that a server does, at most half a minute.
wait_until() {
	tries=0
	until "$@"; do
		tries=$((tries + 1))
		[ "$tries" -lt 300 ] || return 1
		nap
	done
}

# --- the state folder --------------------------------------------------------------------------------------------
chmod 755 "$state"
mkdir "$state/got" "$state/mail"
mkdir -m 700 "$state/queue"

cat >"$state/main.cf" <<-END
	myhostname = quickstart.example
	queue_directory = $state/queue
	users = passwd-file:$state/passwd
	mailbox = maildir:$state/mail/%u
	qmqpd_authorized_clients = 127.0.0.1
END
# One channel: whoever connects may send to the user here, and nothing leaves this machine.
cat >"$state/channels" <<-END
	local  *  \$myhostname, localhost  mailbox:  local
END
cat >"$state/passwd" <<-END
	demo:{PLAIN}quickstart::::$state/mail/demo::
END
cat >"$state/services" <<-END
	127.0.0.1:0  stream  tcp  nowait  -  $state/bin/smtpsrvr
	127.0.0.1:0  stream  tcp  nowait  -  $state/bin/qmqpd
	127.0.0.1:0  stream  tcp  nowait  -  $state/bin/pop3d
END
cat >"$state/smtp.eml" <<-END
	From: you@client.example
	To: demo@quickstart.example
	Subject: By SMTP
	MIME-Version: 1.0
	Content-Type: text/plain; charset=utf-8
	Content-Transfer-Encoding: 8bit

	Grüße.
	.a line with a dot in front
	..and one with two

END
cat >"$state/qmqp.eml" <<-END
	From: you@client.example
	To: demo@quickstart.example
	Subject: By QMQP

	Hello.
	.
	The dot alone did not end this message.
END

# From here on, "$@" is what a program is started with.
set --
if [ "$(id -u)" -eq 0 ]; then
	# Where cargo has put them, only root may be able to look.
	mkdir -p "$state/bin/examples"
	for program in smtpsrvr qmqpd pop3d smtpd submit deliver examples/talk; do
		cp "$target/release/$program" "$state/bin/$program"
	done
	chown -R 65534:65534 "$state"
	PATH=$PATH:/usr/sbin:/sbin
	set -- chroot --userspec=65534:65534 --groups=65534 /
	if ! "$@" "$state/bin/submit" --version >/dev/null; then
		echo "quickstart.sh: uid 65534 may not run programs from $state; set TMPDIR to a folder where it may" >&2
		exit 1
	fi
else
	# The temporary folder may be mounted noexec.
	ln -s "$target/release" "$state/bin"
fi
: >"$state/log"

# --- the servers -------------------------------------------------------------------------------------------------
"$@" "$state/bin/smtpd" --config "$state" --services "$state/services" 2>"$state/log" &
server=$!

# The port of service 1, 2, 3 in the services file; smtpd logs them in that order.
port() {
	sed -n 's/.*listening on=127\.0\.0\.1:\([0-9]*\) .*/\1/p' "$state/log" | sed -n "$1p"
}
all_listening() {
	kill -0 "$server" 2>/dev/null || exit 1
	[ -n "$(port 3)" ]
}
wait_until all_listening
smtp=$(port 1) qmqp=$(port 2) pop3=$(port 3)

# --- mail in and out ---------------------------------------------------------------------------------------------
printf '\n== One message in by SMTP (smtpsrvr, port %s) ==\n' "$smtp"
"$@" "$state/bin/examples/talk" smtp "127.0.0.1:$smtp" you@client.example demo@quickstart.example <"$state/smtp.eml"

printf '\n== One message in by QMQP (qmqpd, port %s) ==\n' "$qmqp"
"$@" "$state/bin/examples/talk" qmqp "127.0.0.1:$qmqp" you@client.example demo@quickstart.example <"$state/qmqp.eml"

both_delivered() {
	[ "$(find "$state/mail/demo/new" "$state/mail/demo/cur" -type f 2>/dev/null | wc -l)" -ge 2 ]
}
wait_until both_delivered

printf '\n== Both out by POP3 (pop3d, port %s) ==\n' "$pop3"
"$@" "$state/bin/examples/talk" pop3 "127.0.0.1:$pop3" demo quickstart "$state/got"

came_back() {
	for got in "$state/got/"*; do
		# In front of the first field stand Return-Path and Received.
		LC_ALL=C sed -n '/^From: /,$p' "$got" | cmp -s - "$1" && return 0
	done
	echo "quickstart.sh: $1 did not come back as it was sent" >&2
	return 1
}
came_back "$state/smtp.eml"
came_back "$state/qmqp.eml"
printf '\nBoth messages came back as they were sent, byte for byte.\n'
[ "$check" = no ] || exit 0

cat <<END

== Now with your own mail program, on this machine ==
  address   demo@quickstart.example
  incoming  POP3, server 127.0.0.1, port $pop3, no encryption, user demo, password quickstart
  outgoing  SMTP, server 127.0.0.1, port $smtp, no encryption, no authentication
The configuration, the mail and the log are in $state.
^C stops the servers and removes all of it.
END
trap 'exit 0' INT TERM HUP
wait "$server"
