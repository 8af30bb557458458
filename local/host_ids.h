/* User ids of this machine that sandboxes run under when the Router is root: each sandbox has one of its
 * own as long as any file of it exists. Thread-safe. */
#pragma once

#include "local/state_dir.h"

#include <sys/types.h>

#define HOST_ID_FIRST 200000
#define HOST_ID_COUNT 65536

struct host_ids;
/* Marks those in use by what is in sandboxes/, trash/ and lost/. */
struct host_ids *host_ids_new(const struct state_dir *state);
void host_ids_free(struct host_ids *ids);
/* 0 when all are taken. */
uid_t host_ids_take(struct host_ids *ids);
void host_ids_mark(struct host_ids *ids, uid_t id); /* is in use */
void host_ids_release(struct host_ids *ids, uid_t id);
