/* Everything that a command started: its descendants, found in /proc by their parents.
 * The caller is a child subreaper, so none can leave by setsid or double fork. Bounded in
 * time, also against processes that fork faster than they are found. (lessons I1, I2) */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Sends `sig` once to every descendant of this process; returns how many there were. 0 only counts. */
size_t tree_signal(int sig);
/* Sends `sig` to every descendant of this process, but to none that is below one of the `count` processes in
 * `heads`; `everyone`: to all that can be seen instead, also those that came from outside. */
void tree_signal_heads(int sig, bool everyone, const pid_t *heads, size_t count);
/* SIGTERM to every descendant, after stopping them all so that none is missed; then lets
 * them go on, to end as they wish. */
void tree_terminate(void);
