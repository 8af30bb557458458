/* What memory does not have may have been written by another Router a moment ago, and the watch has not told
 * yet: before a 404 or 401 one look at where it is kept. Bounded for each second, so that guesses cost an
 * apiserver little (W-56, W-90), and for each caller, so that nobody uses up what others may ask. */
#pragma once

#include "router/router.h"

#define SECOND_LOOKS_OF_STRANGERS 20 /* a second, all together */
#define SECOND_LOOKS_OF_CALLER    50 /* a second; few callers share a count by chance */

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
/* `caller`: who asks; NULL = somebody who has not logged in. `again`: also of an object that memory has: it
 * may be an older state. `out` is filled for LOOK_WANTED. */
enum second_look_need second_look_need(struct router *router, const char *caller, enum kind kind,
                                       const char *namespace, const char *name, bool again,
                                       struct second_look *out);
/* Reads the object into memory, if it is there. Waits: worker threads only. False: 503, nothing was learnt.
 */
bool second_look_run(struct second_look *look, struct error *err);
void second_look_free(struct second_look *look);
