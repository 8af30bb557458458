/* Commands through the reference's runtime, which knows POST /exec alone (http-api.md 5.3, controller.md
 * 18.4): without input, its output as text and only when it has ended. */
#pragma once

#include "backend/access.h"
#include "backend/backend.h"

/* Whether such a runtime can run what the arguments of ACCESS_EXEC describe. */
bool reference_exec_fits(const json_t *args);

struct access_stream *reference_exec_open(const struct runtime_address *to, uv_loop_t *loop,
                                          const json_t *args, const struct access_events *events, void *ctx,
                                          struct error *err);
/* As runtime_access_reached. */
bool reference_exec_reached(const struct access_stream *stream);

/* The request, and what its answer means. Pure. */
void reference_exec_request(const json_t *args, const struct runtime_address *to, struct buffer *out);
/* `body` of an answer with `status`: *result as of ACCESS_EXEC and *texts[2], new references. False: 502. */
bool reference_exec_answer(int status, struct slice body, const char *id, json_t **result, json_t *texts[2],
                           struct error *err);
