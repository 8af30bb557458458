# use: started
# Runs on a terminal, whose input is the user's, so what it needs are its words: nonce, process and start time of the
# guard's watch, session, shell, columns, rows, directory ("" = as it is). Says "+PID START", or "!" and why not.
# Without its guard nobody would end it.
started "$2"
if [ -z "$_t" ] || [ "$_t" != "$3" ]; then
    echo '!unguarded'
    exit 0
fi
stty cols "$6" rows "$7" 2>/dev/null
if [ -n "$8" ]; then
    CDPATH='' cd -- "$8" 2>/dev/null || {
        echo '!no_directory'
        exit 0
    }
fi
_sh=$5
if [ ! -x "$_sh" ] || [ -d "$_sh" ]; then _sh=/bin/sh; fi
TERM=xterm-256color
export TERM
[ -n "${USER-}" ] || { USER=$(id -un 2>/dev/null) && LOGNAME=$USER && export USER LOGNAME; }
started $$
echo "+$$ ${_t:-0}"
if command -v tmux >/dev/null 2>&1; then
    printf '%s\n' 'set -g status off' 'set -g default-terminal "tmux-256color"' \
        'set -ga terminal-overrides ",xterm*:smcup@:rmcup@"' 2>/dev/null >/tmp/.agenttier-tmux.conf
    tmux -u -2 -f /tmp/.agenttier-tmux.conf new-session -A -s "$4" -- "$_sh" -l && exit
fi
"$_sh" -l
# Not exec, and not the last command, of which bash makes one: the guard knows this process by its words.
exit
