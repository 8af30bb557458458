/* Copies the tree of a workspace. What is copied was written by a sandbox, which may run and change it
 * meanwhile: it is hostile. No link is followed, nothing is read outside of the tree, nothing but files,
 * directories, symbolic links and FIFOs is made (sockets are left out), and a file that changes while it is
 * copied is copied again. Kept are modes, times, hard links among the files, holes, and attributes of users.
 */
#pragma once

#include "common/error.h"

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

struct tree_copy {
    /* to be set */
    int64_t keep_free; /* bytes that must stay free on the file system */
    bool give;         /* everything to user `uid` and the group of that number */
    uid_t uid;
    _Atomic bool *cancel; /* polled; NULL: cannot be cancelled */
    /* results */
    int64_t bytes;    /* that the files' content takes at most */
    uint64_t entries; /* without the top */
    /* used inside */
    int from, to, links;
    int64_t since_check;
};

/* Copies what is in directory `from` into the empty directory `to` and gives it the other's mode and times.
 * `links` is an empty directory of the same file system as `to`; what is left in it afterwards is the
 * caller's to remove, as is what is in `to` after a failure.
 * Errors: 507 insufficient_storage; 409 workspace_too_deep (a path above 4095 bytes); 409 workspace_too_large
 * (more than 20 million entries); 409 workspace_unreadable (not root, and a directory without permissions);
 * 503 cancelled; 500 for what a failing disk says. */
bool tree_copy(struct tree_copy *copy, int from, int to, int links, struct error *err);

/* Whether anything in directory `from` was changed at `since` or later, by the times that the kernel keeps
 * (to its tick): when not, a copy begun then is the tree of that moment. True when that cannot be told. */
bool tree_changed(int from, struct timespec since, _Atomic bool *cancel);

#define ERR_CANCELLED            "cancelled"
#define ERR_INSUFFICIENT_STORAGE "insufficient_storage"
