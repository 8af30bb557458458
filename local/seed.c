#include "local/seed.h"

#include "backend/templates.h"
#include "common/bytes.h"
#include "common/json.h"
#include "local/admission.h"
#include "local/commit.h"

#include <time.h>

static bool get_mark(struct local_store *s, char **value, struct error *err) {
    pthread_mutex_lock(&s->write);
    bool ok = db_get_mark(s->db, "seeded", value, err);
    pthread_mutex_unlock(&s->write);
    return ok;
}

/* Adds what is not there: it may have been written by hand. */
static bool add_templates(struct local_store *s, struct batch *b, struct error *err) {
    for (const char *const *text = builtin_templates(); *text != NULL; text++) {
        cleanup_json json_t *template = json_parse_object(slice_of(*text), err);
        if (template == NULL) return false;
        cleanup_json json_t *admitted =
            admission_create(KIND_CLUSTER_SANDBOX_TEMPLATE, template, time(NULL), err);
        if (admitted == NULL) return false;
        if (index_get(&s->index, KIND_CLUSTER_SANDBOX_TEMPLATE, "", json_str_at(admitted, "metadata.name")))
            continue;
        if (batch_put(b, KIND_CLUSTER_SANDBOX_TEMPLATE, steal_ptr(admitted), err) == NULL) return false;
    }
    return true;
}

bool local_store_seed(struct store *store, struct error *err) {
    struct local_store *s = (struct local_store *)store;
    cleanup_free char *seeded = NULL;
    if (!get_mark(s, &seeded, err)) return false;
    if (seeded != NULL) return true;
    /* One transaction: one wait for the disk, and no half of it after a crash. */
    cleanup_batch struct batch b = {0};
    if (!commit_begin(s, &b, err)) return false;
    if (add_templates(s, &b, err) && db_set_mark(s->db, "seeded", AGENTTIER_VERSION, err))
        return commit_end(s, &b, err);
    commit_cancel(s);
    return false;
}
