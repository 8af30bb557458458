/* What memory does not have may have been written by another Router a moment ago, and the watch has not told
 * yet: before a 404 or 401 one look at where it is kept. Bounded for each second, so that guesses cost an
 * apiserver little (W-56, W-90). */
#pragma once

#include "router/router.h"

#define SECOND_LOOKS_PER_SECOND 20

struct second_look {
    struct store *store; /* NULL: nothing to look for */
    enum kind kind;
    char *namespace, *name;
};
/* False: memory is never behind here, or it has the object (which `again` does not mind: it may be an older
 * state), or it has lost touch altogether, or there were too many looks in this second. */
bool second_look_wanted(struct router *router, enum kind kind, const char *namespace, const char *name,
                        bool again, struct second_look *out);
/* Reads the object into memory, if it is there. Waits: worker threads only. False: 503, nothing was learnt.
 */
bool second_look_run(struct second_look *look, struct error *err);
void second_look_free(struct second_look *look);
