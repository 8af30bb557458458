# Refuses directories of the kernel: what is there is no file of the sandbox.
ours() {
    w=$(cd -P -- "$1" && pwd -P) || exit 1
    case $w/ in
    /proc/* | /sys/* | /dev/pts/* | //proc/* | //sys/*) fail permission_denied ;;
    esac
}
