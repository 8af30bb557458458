/* What workspaces take on the disk. A kernel without quotas for directories sets them no bound, so the engine
 * measures them now and then and stops the sandboxes that have outgrown their storage.size. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct engine;
struct entry;

/* Bytes that the files below directory `path` take, -1 when it was cancelled or is not there. A sandbox may
 * change the tree meanwhile: no link is followed. A file with several names counts once when all of them are
 * there. What lies more than STORAGE_DEPTH directories deep, or cannot be read, counts nothing. */
#define STORAGE_DEPTH 64
int64_t storage_measure(const char *path, _Atomic bool *cancel);

/* Measures all running sandboxes that have a limit, and again `interval_ms` later, but for a tenth of the
 * time at most. A pass is made for those that are above it. */
struct storage_watch *storage_watch_start(struct engine *e, int64_t interval_ms);
void storage_watch_stop(struct storage_watch *watch);

/* Of a pass. Sets the limit of a running sandbox (0 = none): whether it was measured above it since
 * storage_forget(), and in *used what it held. */
bool storage_exceeded(struct engine *e, struct entry *s, int64_t limit, int64_t *used);
void storage_forget(struct engine *e, struct entry *s);
