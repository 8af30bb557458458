/* The snapshot of a workspace that is taken when its sandbox stops, where `storage.snapshotOnStop` asks for
 * it (controller.md 11.1). */
#include "local/engine_inside.h"

#include "backend/templates.h"
#include "common/json.h"
#include "common/units.h"

#include <string.h>
#include <time.h>

#define POLL_MS 10
/* How long a stop waits for the copy: a small workspace is then as it was at the stop, whatever follows. */
#define WAIT_MS 1000

void stop_snapshot_plan(struct engine *e, struct entry *s, const struct object *sandbox, const char *phase) {
    s->record.snapshot[0] = '\0';
    s->snapshot_until = 0;
    if (strcmp(phase, "Running") != 0) return;
    cleanup_json json_t *resolved = template_resolve(e->store, sandbox->json, NULL);
    const json_t *spec = resolved ? resolved : json_object_get(sandbox->json, "spec");
    if (snapshot_on_stop_wanted(sandbox, spec))
        snapshot_generate_name(sandbox->name, "stopsnap", time(NULL), NULL, s->record.snapshot);
}

bool stop_snapshot_going(struct engine *e, const struct entry *s) {
    if (!*s->record.snapshot) return false;
    cleanup_object struct object *o =
        e->store->ops->get(e->store, KIND_VOLUME_SNAPSHOT, s->namespace, s->record.snapshot);
    return o && !json_is_true(json_at(o->json, "status.readyToUse")) && !json_at(o->json, "status.error") &&
           !*json_str_at(o->json, "metadata.deletionTimestamp");
}

int64_t stop_snapshot_take(struct engine *e, struct entry *s, const struct object *sandbox) {
    if (!*s->record.snapshot) return 0;
    if (s->snapshot_until == 0) {
        cleanup_json json_t *object = snapshot_on_stop(sandbox, s->record.snapshot);
        cleanup_error struct error err = {0};
        if (e->store->ops->create(e->store, KIND_VOLUME_SNAPSHOT, object, NULL, &err)) {
            events_emit(e->events, sandbox, "Normal", "Snapshotted",
                        "Created VolumeSnapshot %s before stopping", s->record.snapshot);
        } else if (strcmp(err.code, ERR_ALREADY_EXISTS) != 0) { /* else by a Router that was killed then */
            events_emit(e->events, sandbox, "Warning", "SnapshotFailed", "SnapshotOnStop failed: %s",
                        err.message);
            s->record.snapshot[0] = '\0';
            return 0;
        }
        s->snapshot_until = monotonic_ms() + WAIT_MS;
    }
    return monotonic_ms() < s->snapshot_until && stop_snapshot_going(e, s) ? POLL_MS : 0;
}
