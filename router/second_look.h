/* What memory does not have may have been written by another Router a moment ago, and the watch has not told
 * yet: before a 404 or 401 one look at where it is kept. Bounded for each second, so that guesses cost an
 * apiserver little (W-56, W-90); those of strangers do not use up what known callers may ask. */
#pragma once

#include "router/router.h"

enum second_look_asker { LOOK_OF_STRANGER, LOOK_OF_CALLER, LOOK_ASKERS };
#define SECOND_LOOKS_OF_STRANGERS 20  /* a second */
#define SECOND_LOOKS_OF_CALLERS   200 /* a second */

enum second_look_need {
    LOOK_NEEDLESS, /* memory is never behind here, or it has the object, or it has lost touch altogether */
    LOOK_WANTED,
    LOOK_REFUSED, /* there were too many in this second: nobody knows */
};

struct second_look {
    struct store *store; /* NULL: nothing to look for */
    enum kind kind;
    char *namespace, *name;
};
/* `again`: also of an object that memory has: it may be an older state. `out` is filled for LOOK_WANTED. */
enum second_look_need second_look_need(struct router *router, enum second_look_asker asker, enum kind kind,
                                       const char *namespace, const char *name, bool again,
                                       struct second_look *out);
/* Reads the object into memory, if it is there. Waits: worker threads only. False: 503, nothing was learnt.
 */
bool second_look_run(struct second_look *look, struct error *err);
void second_look_free(struct second_look *look);
