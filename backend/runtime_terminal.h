/* ACCESS_TERMINAL over agenttier-runtime, ours or the reference's: a client of GET /pty (http-api.md 5.3,
 * 5.4; docs/runtime-protocol.md). What a sandbox sends is hostile input. */
#pragma once

#include "backend/access.h"
#include "backend/backend.h"

/* As access_open, to a runtime whose address is known. */
struct access_stream *runtime_terminal_open(const struct runtime_address *address, uv_loop_t *loop,
                                            const json_t *args, const struct access_events *events, void *ctx,
                                            struct error *err);
/* Whether the stream is one of these; then, whether the runtime accepted its connection. */
bool runtime_terminal_is(const struct access_stream *stream);
bool runtime_terminal_reached(const struct access_stream *stream);
