/* Processes of this machine as /proc shows them: identity that survives the reuse of pids,
 * and ways to find and end what a sandbox left behind. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* A pid alone is reused; with the start time (clock ticks since boot, field 22 of
 * /proc/PID/stat) it names one process of one boot. pid 0 = none. */
struct process_id {
    pid_t pid;
    uint64_t start;
};

#define BOOT_ID_LEN 36
bool process_boot_id(char out[BOOT_ID_LEN + 1]);

/* Pure: the start time in the text of a /proc/PID/stat. The command name in it is chosen by
 * the process and may hold anything, parentheses included. `zombie` may be NULL. */
bool process_stat_parse(const char *text, uint64_t *start, bool *zombie);

/* The identity of a pid that lives now; false when there is none. */
bool process_identify(pid_t pid, struct process_id *out);
/* A zombie counts as ended. */
bool process_alive(struct process_id id);
/* A pidfd of exactly that process, or -1 when it has ended. Caller closes. */
int process_open(struct process_id id);
/* Signals exactly that process; false when it has ended. */
bool process_signal(struct process_id id, int signo);

/* SIGKILL for the process and everything below it, parents first stopped so that nothing new
 * appears meanwhile. For a bubblewrap whose process 1 is not known. */
void process_kill_tree(struct process_id id);
/* SIGKILL for every process that has the file open; returns how many. */
size_t process_kill_holders(const struct stat *file);
