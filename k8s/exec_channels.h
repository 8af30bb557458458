/* The channels of pods/exec over WebSocket (v4 and v5.channel.k8s.io): what a message's bytes mean,
 * and what the status at the end says (http-api.md 5.5; lessons 4.3, I6, S23). Pure. */
#pragma once

#include "common/bytes.h"
#include "common/error.h"

#define EXEC_CHANNEL_STDIN  0
#define EXEC_CHANNEL_STDOUT 1
#define EXEC_CHANNEL_STDERR 2
#define EXEC_CHANNEL_STATUS 3
#define EXEC_CHANNEL_RESIZE 4
#define EXEC_CHANNEL_CLOSE  255
#define EXEC_STATUS_MAX     65536

#define ERR_EXEC_OUTCOME_UNKNOWN "exec_outcome_unknown" /* 502: the stream ended without its status */

struct exec_channels {
    bool v5;
    bool in_message;      /* its channel byte was read */
    unsigned channel;     /* of the message being read */
    size_t close_bytes;   /* of a close message, after its channel byte */
    struct buffer status; /* what came on channel 3 */
};

void exec_channels_init(struct exec_channels *c, bool v5);
void exec_channels_free(struct exec_channels *c);

/* A piece of a message. *channel is EXEC_CHANNEL_STDOUT or _STDERR and *out the bytes for it (may
 * be empty), or *channel is -1: nothing to pass on. `last`: the message ends here. False: 502
 * sandbox_unreachable, the peer does not keep to the protocol. */
bool exec_channels_take(struct exec_channels *c, struct slice piece, bool last, int *channel,
                        struct slice *out, struct error *err);
bool exec_channels_has_status(const struct exec_channels *c);
/* The exit code that the status gives, 0 to 255; -1: no code, err says why: 502
 * exec_outcome_unknown when there is none or it makes no sense, 502 sandbox_unreachable when the
 * command could not be run. */
int exec_channels_outcome(const struct exec_channels *c, struct error *err);
