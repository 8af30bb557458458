/* The shell's part of sending the runtime. POSIX only, and of tools no more than head, wc, chmod and mv: the
 * image is anybody's. */
#include "controller/sender.h"

const char sender_script[] =
    "program=$1/agenttier-runtime\n"
    "IFS= read -r token || exit 90\n"
    /* One name for each attempt: two of them do not write to one file. */
    "head -c \"$2\" > \"$program.$$\" || exit 91\n"
    "[ \"$(wc -c < \"$program.$$\")\" -eq \"$2\" ] || { rm -f \"$program.$$\"; exit 92; }\n"
    "chmod 755 \"$program.$$\" && mv -f \"$program.$$\" \"$program\" || exit 93\n"
    /* A runtime that the image started itself has no token that anybody knows, and our port. */
    "for p in /proc/[0-9]*; do\n"
    "  name=; read -r name 2>/dev/null < \"$p/comm\"\n"
    "  case $name in agenttier-sandb*) kill -9 \"${p#/proc/}\" 2>/dev/null ;; esac\n"
    "done\n"
    /* What commands expect of a login, and what container runtimes leave out. */
    "[ -n \"${USER-}\" ] || { USER=$(id -un 2>/dev/null) && LOGNAME=$USER && export USER LOGNAME; }\n"
    "printf '%s\\n' \"$token\" | \"$program\" --token-stdin --detach --listen-addr=\"$3\"\n"
    "status=$?\n"
    "[ $status -eq 3 ] || exit $status\n"
    /* The address is taken: by ours, when an earlier attempt was not heard of again. */
    "for p in /proc/[0-9]*; do\n"
    "  name=; read -r name 2>/dev/null < \"$p/comm\"\n"
    "  case $name in agenttier-runti*) exit 0 ;; esac\n"
    "done\n"
    "exit 3\n";
