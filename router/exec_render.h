/* The answer of a command as JSON, made piece by piece from the bytes of its output, so that
 * no second copy of them is ever held (http-api.md 2.8; lessons I30, M6). Pure. */
#pragma once

#include "common/bytes.h"

#include <jansson.h>

struct exec_render {
    struct slice output[2]; /* stdout, stderr; borrowed */
    bool base64;
    bool truncated[2];
    struct buffer tail[2]; /* what follows the bytes of a stream: "[truncated]", "[runtime] ..." */
    struct buffer members; /* the other members of the object, from "," to "}" */
    int step;
    size_t at;
};

/* `outcome` as of ACCESS_EXEC; `status` NULL or "exited". `truncated` are cuts made on our side. */
void exec_render_init(struct exec_render *, const json_t *outcome, const char *status,
                      const struct slice output[2], const bool truncated[2], bool base64);
void exec_render_free(struct exec_render *);
/* Appends some more of the text, at most about 64 KiB; false when there is none left. */
bool exec_render_more(struct exec_render *, struct buffer *out);
