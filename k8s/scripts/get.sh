# The next parameter in $v: a line whose special bytes are written \0ooo (k8s/exec_params.h).
get() {
    IFS= read -r _l || exit 91
    _v=$(printf '%bx' "$_l")
    _v=${_v%x}
}
