/* struct access over agenttier-runtime (docs/runtime-protocol.md): used by every backend
 * whose sandboxes have the runtime. Which socket a sandbox listens on is the backend's
 * knowledge: `locate` answers from memory, never blocks. */
#pragma once

#include "backend/backend.h"

/* Fills in where `sandbox` listens now, or false with 409 sandbox_not_running / 502. */
typedef bool runtime_locate_fn(void *ctx, struct object *sandbox, struct runtime_address *out,
                               struct error *err);

struct access *runtime_access_new(runtime_locate_fn *locate, void *ctx);
void runtime_access_free(struct access *a); /* all streams must be closed */

/* As access_open, to a runtime whose address is known. */
struct access_stream *runtime_access_open_at(const struct runtime_address *address, uv_loop_t *loop,
                                             enum access_op op, const json_t *args,
                                             const struct access_events *events, void *ctx,
                                             struct error *err);
/* Whether the runtime accepted the connection: false means that nothing was begun there, and the same
 * can be tried in another way. For streams of this transport, until they are closed. */
bool runtime_access_reached(const struct access_stream *stream);
