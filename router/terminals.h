/* All terminals of this process: how many each user and each sandbox may have at once (W-71), and what
 * /metrics says of them (O2, O10). Thread-safe. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#include <stdatomic.h>

/* How a terminal ended. */
enum terminal_ending {
    TERMINAL_CLIENT_LEFT,
    TERMINAL_SHELL_ENDED,
    TERMINAL_NOT_STARTED,
    TERMINAL_SANDBOX_LOST,
    TERMINAL_SANDBOX_STOPPED,
    TERMINAL_SANDBOX_DELETED,
    TERMINAL_ACCESS_REVOKED,
    TERMINAL_SESSION_EXPIRED,
    TERMINAL_SERVER_STOPS,
    TERMINAL_ENDINGS
};
extern const char *const terminal_ending_names[TERMINAL_ENDINGS];

struct terminals;
/* Most at once of a user and of a sandbox; 0: any number. */
struct terminals *terminals_new(int per_user, int per_sandbox);
void terminals_free(struct terminals *);

/* Counts a new one of the user `sub` in the sandbox of that UID. False: 429 too_many_terminals. */
bool terminals_admit(struct terminals *, const char *sub, const char *uid, struct error *err);
/* It is over; once for each that was admitted. */
void terminals_leave(struct terminals *, const char *sub, const char *uid, enum terminal_ending how);
/* The bytes that wait in all of them, which they keep themselves. */
_Atomic int64_t *terminals_held(struct terminals *);
void terminals_render(struct terminals *, struct buffer *out);
