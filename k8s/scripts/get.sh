# The next parameter in $v: a line whose special bytes are written \0ooo (k8s/exec_params.h).
get() {
    IFS= read -r l || exit 91
    v=$(printf '%bx' "$l")
    v=${v%x}
}
