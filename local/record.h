/* What the engine knows about a sandbox's processes and must know again after a restart:
 * DIR/sandboxes/UID/state.json, written before a launch (the intent) and after it. */
#pragma once

#include "backend/snapshots.h"
#include "common/error.h"
#include "local/cgroup.h"
#include "local/process.h"

#include <sys/types.h>

struct record {
    char
        boot_id[BOOT_ID_LEN + 1]; /* of the launch; another boot = nothing of it lives. "" = never launched */
    struct process_id monitor;    /* bubblewrap outside of the sandbox */
    struct process_id init;       /* process 1 of the sandbox, as seen from here */
    bool own_user;                /* runs under a uid of its own */
    uid_t host_uid;
    bool initialized; /* files and initScripts of the template were applied */
    char runtime[72]; /* names in bin/ and etc/ that it runs from */
    char etc[72];
    char image[256];                       /* directory of its root file system, "" = the host's */
    char stopping[96];                     /* reason of a stop under way, "" = none */
    char snapshot[GENERATED_NAME_MAX + 1]; /* that the last stop takes or has taken, "" = none */
    char *cgroups[CGROUP_MAX];             /* owned */
    size_t cgroup_count;
};

/* `dir` is sandboxes/UID. A missing or damaged file is an empty record (true); the user id is
 * then that of the workspace. False: it cannot be read. */
bool record_load(const char *dir, struct record *out, struct error *err);
/* Atomic against a crash of the Router. */
bool record_save(const char *dir, const struct record *record, struct error *err);
void record_clear(struct record *record); /* frees what it owns; all zero after */
void record_set_cgroups(struct record *record, const struct cgroup_set *set);
