#include "k8s/exec_channels.h"

#include "common/json.h"
#include "common/text.h"

void exec_channels_init(struct exec_channels *c, bool v5) {
    *c = (struct exec_channels){.v5 = v5, .status = {.limit = EXEC_STATUS_MAX}};
}

void exec_channels_free(struct exec_channels *c) {
    buffer_free(&c->status);
}

static bool refuse(struct error *err, const char *what) {
    error_set(err, 502, ERR_SANDBOX_UNREACHABLE, "the command's stream is broken: %s", what);
    return false;
}

bool exec_channels_take(struct exec_channels *c, struct slice piece, bool last, int *channel,
                        struct slice *out, struct error *err) {
    *channel = -1;
    *out = (struct slice){0};
    if (!c->in_message) {
        if (piece.len == 0) return last ? refuse(err, "a message without a channel") : true;
        c->in_message = true;
        c->channel = (unsigned char)piece.ptr[0];
        c->close_bytes = 0;
        piece = slice_make(piece.ptr + 1, piece.len - 1);
    }
    if (last) c->in_message = false;
    switch (c->channel) {
    case EXEC_CHANNEL_STDOUT:
    case EXEC_CHANNEL_STDERR:
        *channel = (int)c->channel;
        *out = piece;
        return true;
    case EXEC_CHANNEL_STATUS:
        return buffer_append(&c->status, piece.ptr, piece.len) ? true : refuse(err, "its status has no end");
    case EXEC_CHANNEL_CLOSE: {
        if (!c->v5) break;
        c->close_bytes += piece.len;
        bool known = piece.len == 0 || (unsigned char)piece.ptr[0] <= EXEC_CHANNEL_RESIZE;
        if (!known || c->close_bytes > 1 || (last && c->close_bytes == 0))
            return refuse(err, "it closes a channel that does not exist");
        return true;
    }
    default: break;
    }
    return refuse(err, "a message on a channel that does not exist");
}

bool exec_channels_has_status(const struct exec_channels *c) {
    return c->status.len > 0 && !(c->in_message && c->channel == EXEC_CHANNEL_STATUS);
}

static int unknown(struct error *err, const char *why) {
    error_set(err, 502, ERR_EXEC_OUTCOME_UNKNOWN, "it is not known how the command ended: %s", why);
    return -1;
}

int exec_channels_outcome(const struct exec_channels *c, struct error *err) {
    if (!exec_channels_has_status(c)) return unknown(err, "its stream ended without a status");
    cleanup_json json_t *status = json_parse_object(buffer_slice(&c->status), NULL);
    if (!status) return unknown(err, "its status is not JSON");
    const char *verdict = json_str_at(status, "status");
    if (strcmp(verdict, "Success") == 0) return 0;
    if (strcmp(verdict, "Failure") != 0) return unknown(err, "its status says neither success nor failure");
    if (strcmp(json_str_at(status, "reason"), "NonZeroExitCode") == 0) {
        const json_t *causes = json_at(status, "details.causes");
        for (size_t i = 0; i < json_array_size(causes); i++) {
            const json_t *cause = json_array_get(causes, i);
            uint64_t code;
            if (strcmp(json_str_at(cause, "reason"), "ExitCode") != 0) continue;
            if (!slice_parse_u64(slice_of(json_str_at(cause, "message")), 255, &code) || code == 0) break;
            return (int)code;
        }
        return unknown(err, "its status gives no exit code");
    }
    char why[460];
    size_t n = 0;
    for (const char *at = json_str_at(status, "message"); *at && n + 1 < sizeof why; at++)
        why[n++] = (unsigned char)*at < 0x20 || *at == 0x7f ? ' ' : *at;
    while (n && utf8_incomplete_tail(slice_make(why, n)))
        n--;
    why[n] = 0;
    error_set(err, 502, ERR_SANDBOX_UNREACHABLE, "the command could not be run in the pod: %s",
              n ? why : "no reason given");
    return -1;
}
