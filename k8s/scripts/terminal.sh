# use: started
# Runs on a terminal, whose input is the user's, so what it needs are words before it: nonce ($0), process and start time
# of the guard's watch, session, shell, columns, rows, directory ("" = as it is). Says "+PID START", or "!" and why not.
# Without its guard nobody would end it.
started "$1"
if [ -z "$_t" ] || [ "$_t" != "$2" ]; then
    echo '!unguarded'
    exit 0
fi
stty cols "$5" rows "$6" 2>/dev/null
if [ -n "$7" ]; then
    CDPATH='' cd -- "$7" 2>/dev/null || {
        echo '!no_directory'
        exit 0
    }
fi
_sh=$4
if [ ! -x "$_sh" ] || [ -d "$_sh" ]; then _sh=/bin/sh; fi
TERM=xterm-256color
export TERM
[ -n "${USER-}" ] || { USER=$(id -un 2>/dev/null) && LOGNAME=$USER && export USER LOGNAME; }
# Hung up, it still waits for its child: the first process of many pods does not.
trap exit HUP
started $$
echo "+$$ ${_t:-0}"
if command -v tmux >/dev/null 2>&1; then
    printf '%s\n' 'set -g status off' 'set -g default-terminal "tmux-256color"' \
        'set -ga terminal-overrides ",xterm*:smcup@:rmcup@"' 2>/dev/null >/tmp/.agenttier-tmux.conf
    tmux -u -2 -f /tmp/.agenttier-tmux.conf new-session -A -s "$3" -- "$_sh" -l && exit
fi
"$_sh" -l
# Not exec, and not the last command, of which bash makes one: the guard knows this process by its words.
exit
