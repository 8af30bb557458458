# The tools' messages are in English, bytes are bytes.
LC_ALL=C
export LC_ALL
fail() {
    printf '!%s\n' "$1"
    exit 0
}
