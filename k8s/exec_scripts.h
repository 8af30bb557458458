/* The shell scripts that k8s/exec_*.c runs in pods without a runtime. They are constant: whatever a
 * caller gives travels over stdin, one escaped line for each parameter (k8s/exec_params.h), and is never
 * a part of a script or of a URL (lessons S14); only a terminal's script, whose input is the user's, has
 * its few checked parameters as words behind it. POSIX sh, and tools that both coreutils and busybox
 * have; what goes beyond POSIX (stat, readlink, xargs -0) is tried first and has a fallback.
 *
 * A script of files says first, on stdout, one line: "+" and a result, or "!" and the machine code of
 * an error. Everything that a tool complains about goes to stderr (k8s/exec_answers.h). */
#pragma once

/* Each says in its comment in exec_scripts.c which parameters it reads. */
extern const char exec_script_command[];
extern const char exec_script_kill[];
extern const char exec_script_keep[];
extern const char exec_script_outcome[];
extern const char exec_script_kill_kept[];
extern const char exec_script_guard[];
extern const char exec_script_terminal[];
extern const char exec_script_stat[];
extern const char exec_script_list[];
extern const char exec_script_read[];
extern const char exec_script_write[];
extern const char exec_script_mkdir[];
extern const char exec_script_remove[];
extern const char exec_script_archive_read[];
extern const char exec_script_archive_write[];
