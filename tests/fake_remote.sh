#!/bin/sh
# Stands in for ssh, scp and adb, by the name it is started under. The "device" is this machine's own shell, so that what is
# quoted wrongly breaks as it would there. The file FAKE_MODE beside it says how the device misbehaves: one word, and for
# which commands. Like a real device it goes on with what it was told when the connection is cut.
here=${0%/*} program=${0##*/}

# The way to misbehave at the command $1; empty for none.
mode() {
    [ -f "$here/FAKE_MODE" ] && read -r word where < "$here/FAKE_MODE" && case $1 in *"$where"*) echo "$word" ;; esac
}

fail() { echo "$1" >&2; exit "$2"; }

# What sshd and adbd do with a command: one string for the user's shell, in a session of its own.
remote_shell() {
    how=$(mode "$1")
    case $how in
        banner) printf 'Welcome to the board!\n{"motd": 1}\n' ;;
        garbage) printf '\377\000 <html>502 Bad Gateway</html>\n'; exit 0 ;;
        endless) exec yes "an answer without end" ;;
        vanish*)
            (cd / && setsid sh -c "$1") | head -n "${how#vanish}"
            [ "$program" = adb ] && exit 0  # so does adb when the cable is pulled
            fail "Connection to board closed by remote host." 255 ;;
    esac
    cd / && setsid --wait sh -c "$1"
    exit
}

# $1 to $2; what lies in a full device is cut short.
copy() {
    how=$(mode copy)
    cp -- "$1" "$2" || exit 1
    case $how in full | short) truncate -s 10 "$2" ;; esac
    [ "$how" = full ] && fail "$program: write remote $2: No space left on device" 1
    exit 0
}

[ "$(mode connect)" = refused ] && case $program in
    adb) fail "error: device 'X1' not found" 1 ;;
    *) fail "pi@board: Permission denied (publickey)." 255 ;;
esac
if [ "$program" = adb ]; then
    [ "$1 $2" = "-s X1" ] || fail "adb: no serial" 1
    verb=$3
    shift 3
    case $verb in
        get-state) if [ "$(mode connect)" = unauthorized ]; then echo unauthorized; else echo device; fi ;;
        shell) remote_shell "$*" ;;
        push | pull) copy "$1" "$2" ;;
        *) fail "adb: unknown command $verb" 1 ;;
    esac
    exit
fi
while [ "$1" != -- ]; do  # only before it are options read
    case $1 in -O | -N) exit 0 ;; esac
    shift
done
shift
if [ "$program" = scp ]; then copy "${1#pi@board:}" "${2#pi@board:}"; fi
shift
remote_shell "$*"
