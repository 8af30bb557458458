# A moment: sleep knows fractions in most images.
nap() {
    sleep 0.1 2>/dev/null || sleep 1
}
# The time since some moment in $_u.
centiseconds() {
    read -r _u _u1 </proc/uptime 2>/dev/null || _u=0.00
    _u=${_u%.*}${_u#*.}
}
