# Says by the words of ls why there is nothing at $1, if there is nothing.
present() {
    [ -e "$1" ] || [ -L "$1" ] || {
        ls -d -- "$1" >/dev/null && echo "$1: No such file or directory" >&2
        exit 1
    }
}
