#include "local/commit.h"

#include "common/bytes.h"
#include "common/json.h"
#include "local/admission.h"

#include <time.h>

void batch_free(struct batch *b) {
    for (size_t i = 0; i < b->count; i++) {
        object_unref(b->items[i].object);
        free(b->items[i].text);
    }
    free(b->items);
    *b = (struct batch){0};
}

static void batch_add(struct batch *b, struct change change) {
    if (b->count == b->cap) {
        b->cap = b->cap ? b->cap * 2 : 8;
        b->items = xrealloc(b->items, b->cap * sizeof(*b->items));
    }
    b->items[b->count++] = change;
}

struct object *batch_put(struct batch *b, enum kind kind, json_t *json, struct error *err) {
    char version[24];
    snprintf(version, sizeof(version), "%llu", (unsigned long long)b->version + 1);
    json_object_set_new(json_object_get(json, "metadata"), "resourceVersion", json_string(version));
    char *text = json_dumps(json, JSON_COMPACT);
    if (text == NULL || strlen(text) > ADMISSION_MAX_SIZE) {
        error_set(err, text ? 413 : 500, text ? "too_large" : ERR_INTERNAL, "%s \"%s\" %s",
                  resource_kinds[kind].kind, json_str_at(json, "metadata.name"),
                  text ? "is above the limit of 1.5 MiB" : "cannot be rendered");
        free(text);
        json_decref(json);
        return NULL;
    }
    struct object *o = object_new(kind, json, ++b->version);
    batch_add(b, (struct change){.object = o, .version = b->version, .text = text});
    return o;
}

static void batch_delete(struct batch *b, struct object *o) {
    batch_add(b, (struct change){.object = object_ref(o), .version = ++b->version, .deleted = true});
}

/* Whether the owner that item i of `owned` names is there and stays. */
static bool owner_stays(const struct local_store *s, const struct batch *b, const struct object *owned,
                        size_t i) {
    const json_t *ref = json_array_get(json_at(owned->json, "metadata.ownerReferences"), i);
    const char *type = json_str_at(ref, "kind"), *uid = json_str_at(ref, "uid");
    for (size_t c = 0; c < b->count; c++) {
        if (b->items[c].deleted && strcmp(b->items[c].object->uid, uid) == 0) return false;
    }
    for (int k = 0; k < KIND_COUNT; k++) {
        if (strcmp(resource_kinds[k].kind, type) != 0) continue;
        /* An owner is in the namespace of what it owns, or in none. */
        const char *namespace = resource_kinds[k].namespaced ? owned->namespace : "";
        const struct object *owner = index_get(&s->index, (enum kind)k, namespace, json_str_at(ref, "name"));
        return owner != NULL && strcmp(owner->uid, uid) == 0;
    }
    return true; /* of a kind that is not kept here: nobody can tell */
}

static bool any_owner_stays(const struct local_store *s, const struct batch *b, const struct object *owned) {
    for (size_t i = 0; index_owner_uid(owned, i) != NULL; i++) {
        if (owner_stays(s, b, owned, i)) return true;
    }
    return false;
}

static bool batch_has(const struct batch *b, const struct object *o) {
    for (size_t i = 0; i < b->count; i++) {
        if (strcmp(b->items[i].object->uid, o->uid) == 0) return true;
    }
    return false;
}

bool batch_remove(struct local_store *s, struct batch *b, struct object *o, struct error *err) {
    /* The batch itself is the work list: what is deleted from `first` on has its dependents
     * looked up, which adds to its end. */
    size_t first = b->count;
    struct object *next = o;
    for (;;) {
        if (!admission_has_finalizers(next->json)) {
            batch_delete(b, next);
        } else if (json_at(next->json, "metadata.deletionTimestamp") == NULL) {
            if (batch_put(b, next->kind, admission_mark_deleted(next->json, time(NULL)), err) == NULL)
                return false;
        }
        next = NULL;
        for (; first < b->count && next == NULL; first += next == NULL) {
            const struct object *owner = b->items[first].object;
            if (!b->items[first].deleted) continue;
            struct index_owned_range owned = index_owned_by(&s->index, owner->uid);
            for (size_t i = 0; i < owned.count && next == NULL; i++) {
                struct object *d = owned.items[i].object;
                if (owner->namespace[0] != '\0' && strcmp(owner->namespace, d->namespace) != 0) continue;
                bool waits =
                    admission_has_finalizers(d->json) && json_at(d->json, "metadata.deletionTimestamp");
                if (!waits && !batch_has(b, d) && !any_owner_stays(s, b, d)) next = d;
            }
        }
        if (next == NULL) return true;
    }
}

static struct db_row row_of(const struct change *c) {
    const struct object *o = c->object;
    return (struct db_row){.kind = o->kind,
                           .namespace = o->namespace,
                           .name = o->name,
                           .uid = o->uid,
                           .version = c->version,
                           .json = c->text,
                           .json_len = c->text ? strlen(c->text) : 0};
}

static void notify(struct local_store *s, enum store_change change, struct object *o) {
    cleanup_object struct object *full = object_unpacked(o);
    for (struct watcher *w = s->watchers; w != NULL; w = w->next) {
        if (w->kind == o->kind) w->fn(w->ctx, change, full);
    }
}

/* Changes memory, one object after the other with its watchers called in between, so that a
 * watcher that reads the store never finds it behind. Needs `write`. */
static void apply(struct local_store *s, struct batch *b) {
    pthread_mutex_lock(&s->order);
    for (size_t i = 0; i < b->count; i++) {
        struct change *c = &b->items[i];
        struct object *o = c->object, *old;
        pthread_rwlock_wrlock(&s->memory);
        old = c->deleted ? index_remove(&s->index, o->kind, o->namespace, o->name)
                         : index_put(&s->index, object_ref(o));
        pthread_rwlock_unlock(&s->memory);
        if (c->deleted) {
            if (old) notify(s, STORE_DELETED, o);
        } else if (old == NULL) {
            notify(s, STORE_ADDED, o);
        } else if (strcmp(old->uid, o->uid) == 0) {
            notify(s, STORE_MODIFIED, o);
        } else {
            notify(s, STORE_DELETED, old);
            notify(s, STORE_ADDED, o);
        }
        object_unref(old);
    }
    pthread_mutex_unlock(&s->order);
    s->version = b->version;
}

static struct object *parse_row(const struct db_row *row, struct error *err) {
    json_error_t why;
    cleanup_json json_t *json = json_loadb(row->json, row->json_len, JSON_ALLOW_NUL, &why);
    if (json == NULL) {
        error_set(err, 500, ERR_INTERNAL, "the stored %s \"%s\" is damaged: %s",
                  resource_kinds[row->kind].kind, row->name, why.text);
        return NULL;
    }
    struct object *o = object_new(row->kind, steal_ptr(json), row->version);
    if (strcmp(o->name, row->name) == 0 && strcmp(o->namespace, row->namespace) == 0 &&
        strcmp(o->uid, row->uid) == 0) {
        return o;
    }
    error_set(err, 500, ERR_INTERNAL, "the stored %s \"%s\" is damaged: it says another name",
              resource_kinds[row->kind].kind, row->name);
    object_unref(o);
    return NULL;
}

static bool append_row(void *ctx, const struct db_row *row, struct error *err) {
    struct object *o = parse_row(row, err);
    if (o != NULL) index_append(ctx, o);
    return o != NULL;
}

bool commit_load(struct db *db, struct index *index, uint64_t *version, struct error *err) {
    if (!db_version(db, version, err) || !db_load(db, append_row, index, err)) return false;
    index_sort(index);
    return true;
}

/* What another process changed becomes a batch of changes that are stored already. */
struct foreign {
    struct local_store *store;
    struct batch *batch;
};

static bool foreign_row(void *ctx, const struct db_row *row, struct error *err) {
    struct foreign *f = ctx;
    if (row->json != NULL) {
        struct object *o = parse_row(row, err);
        if (o == NULL) return false;
        batch_add(f->batch, (struct change){.object = o, .version = row->version});
        return true;
    }
    struct object *old = index_get(&f->store->index, row->kind, row->namespace, row->name);
    if (old != NULL && strcmp(old->uid, row->uid) == 0) {
        batch_add(f->batch,
                  (struct change){.object = object_ref(old), .version = row->version, .deleted = true});
    }
    return true;
}

/* After a sleep so long that tombstones were pruned: what differs between file and memory. */
static bool compare_all(struct local_store *s, struct batch *b, struct error *err) {
    struct index now = {0};
    uint64_t version;
    bool ok = commit_load(s->db, &now, &version, err);
    for (int k = 0; ok && k < KIND_COUNT; k++) {
        const struct index_array *old = &s->index.by_key[k], *new = &now.by_key[k];
        for (size_t i = 0; i < old->count; i++) {
            struct object *o = old->items[i];
            if (index_get(&now, o->kind, o->namespace, o->name) == NULL) {
                batch_add(b, (struct change){.object = object_ref(o), .deleted = true});
            }
        }
        for (size_t i = 0; i < new->count; i++) {
            struct object *o = new->items[i], *had = index_get(&s->index, o->kind, o->namespace, o->name);
            if (had == NULL || had->generation != o->generation) {
                batch_add(b, (struct change){.object = object_ref(o), .version = o->generation});
            }
        }
    }
    index_free(&now);
    return ok;
}

bool commit_catch_up(struct local_store *s, struct error *err) {
    uint64_t version;
    if (!db_version(s->db, &version, err)) return false;
    if (version == s->version) return true;
    cleanup_batch struct batch changes = {0};
    struct foreign f = {s, &changes};
    bool complete = true;
    if (!db_changes(s->db, s->version, &complete, foreign_row, &f, err)) return false;
    if (!complete && !compare_all(s, &changes, err)) return false;
    changes.version = version;
    apply(s, &changes);
    return true;
}

bool commit_begin(struct local_store *s, struct batch *b, struct error *err) {
    pthread_mutex_lock(&s->write);
    if (db_begin_write(s->db, err) && commit_catch_up(s, err)) {
        *b = (struct batch){.version = s->version};
        return true;
    }
    commit_cancel(s);
    return false;
}

void commit_cancel(struct local_store *s) {
    db_rollback(s->db);
    pthread_mutex_unlock(&s->write);
}

bool commit_end(struct local_store *s, struct batch *b, struct error *err) {
    bool ok = true;
    for (size_t i = 0; ok && i < b->count; i++) {
        struct db_row row = row_of(&b->items[i]);
        ok = b->items[i].deleted ? db_delete(s->db, &row, err) : db_put(s->db, &row, err);
    }
    if (ok) ok = db_set_version(s->db, b->version, err) && db_commit(s->db, err);
    if (!ok) {
        commit_cancel(s);
        return false;
    }
    apply(s, b);
    pthread_mutex_unlock(&s->write);
    return true;
}
