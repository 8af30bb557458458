# A moment: sleep knows fractions in most images.
nap() {
    sleep 0.1 2>/dev/null || sleep 1
}
