#include "local/seed.h"

#include "backend/templates.h"
#include "common/bytes.h"
#include "common/json.h"
#include "local/commit.h"

static bool get_mark(struct local_store *s, char **value, struct error *err) {
    pthread_mutex_lock(&s->write);
    bool ok = db_get_mark(s->db, "seeded", value, err);
    pthread_mutex_unlock(&s->write);
    return ok;
}

static bool set_mark(struct local_store *s, struct error *err) {
    cleanup_batch struct batch b = {0};
    if (!commit_begin(s, &b, err)) return false;
    if (db_set_mark(s->db, "seeded", AGENTTIER_VERSION, err)) return commit_end(s, &b, err);
    commit_cancel(s);
    return false;
}

bool local_store_seed(struct store *store, struct error *err) {
    struct local_store *s = (struct local_store *)store;
    cleanup_free char *seeded = NULL;
    if (!get_mark(s, &seeded, err)) return false;
    if (seeded != NULL) return true;
    for (const char *const *text = builtin_templates(); *text != NULL; text++) {
        cleanup_json json_t *template = json_parse_object(slice_of(*text), err);
        cleanup_error struct error failed = {0};
        if (template == NULL) return false;
        if (store->ops->create(store, KIND_CLUSTER_SANDBOX_TEMPLATE, template, NULL, &failed)) continue;
        /* There after a start that was cut short, or written by hand. */
        if (strcmp(failed.code, ERR_ALREADY_EXISTS) == 0) continue;
        error_move(err, &failed);
        return false;
    }
    return set_mark(s, err);
}
