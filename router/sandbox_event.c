/* See sandbox_event.h. */
#include "router/sandbox_event.h"

#include "common/json.h"
#include "common/log.h"
#include "common/text.h"
#include "common/units.h"

#include <string.h>

#define MESSAGE_MAX 1024

static json_t *message_json(const char *message) {
    size_t len = strlen(message);
    if (len > MESSAGE_MAX) {
        len = MESSAGE_MAX;
        len -= utf8_incomplete_tail(slice_make(message, len));
    }
    return json_string_repaired(slice_make(message, len));
}

void sandbox_event(struct store *store, const struct object *sandbox, const char *type, const char *reason,
                   const char *message) {
    char now[RFC3339_MAX];
    rfc3339_format(time(NULL), now);
    cleanup_free char *prefix = xasprintf("%s.", sandbox->name);
    const struct resource_kind *kind = &resource_kinds[KIND_SANDBOX];
    cleanup_json json_t *event = json_pack(
        "{s:s, s:s, s:{s:s, s:s}, s:{s:s, s:s, s:s, s:s, s:s}, s:s, s:s, s:o, s:{s:s}, s:s, s:s, s:i}",
        "apiVersion", resource_kinds[KIND_EVENT].api_version, "kind", resource_kinds[KIND_EVENT].kind,
        "metadata", "generateName", prefix, "namespace", sandbox->namespace, "involvedObject", "kind",
        kind->kind, "apiVersion", kind->api_version, "namespace", sandbox->namespace, "name", sandbox->name,
        "uid", sandbox->uid, "type", type, "reason", reason, "message", message_json(message), "source",
        "component", "agenttier-router", "firstTimestamp", now, "lastTimestamp", now, "count", 1);
    cleanup_error struct error err = {0};
    if (!store->ops->create(store, KIND_EVENT, event, NULL, &err))
        log_warn("event not written", "sandbox", sandbox->name, "reason", reason, "error", err.message, NULL);
}
