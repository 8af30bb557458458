/* A state directory of its own for each test, and short ways to say what is written. */
#pragma once

#include "backend/store.h"
#include "common/bytes.h"
#include "common/json.h"
#include "local/local.h"

#include <check.h>
#include <ftw.h>
#include <stdio.h>

static char state_dir[64];
static struct store *store;

static inline struct store *open_store(void) {
    struct error err = {0};
    struct store *opened = local_store_open(state_dir, &err);
    ck_assert_msg(opened != NULL, "%s", err.message);
    return opened;
}

static inline void setup(void) {
    snprintf(state_dir, sizeof(state_dir), "/tmp/store-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(state_dir));
    store = open_store();
}

static inline int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static inline void teardown(void) {
    local_store_close(store);
    nftw(state_dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static inline void reopen(void) {
    local_store_close(store);
    store = open_store();
}

static inline json_t *parse(const char *text) {
    struct error err = {0};
    json_t *value = json_parse(slice_of(text), &err);
    ck_assert_msg(value != NULL, "%s: %s", err.message, text);
    return value;
}

/* {"metadata": {"name", "namespace", and `metadata`}, and `rest`}; both may be "". */
static inline json_t *make(const char *namespace, const char *name, const char *metadata, const char *rest) {
    cleanup_free char *text =
        xasprintf("{\"metadata\":{\"name\":\"%s\",\"namespace\":\"%s\"%s%s}%s%s}", name, namespace,
                  metadata[0] ? "," : "", metadata, rest[0] ? "," : "", rest);
    return parse(text);
}

static inline struct object *must_create(enum kind kind, json_t *json) {
    struct error err = {0};
    struct object *o = NULL;
    ck_assert_msg(store->ops->create(store, kind, json, &o, &err), "%s", err.message);
    json_decref(json);
    return o;
}

static inline struct object *must_patch(enum kind kind, enum store_part part, const char *name,
                                        const char *patch) {
    struct error err = {0};
    struct object *o = NULL;
    cleanup_json json_t *merge = parse(patch);
    ck_assert_msg(store->ops->patch(store, kind, part, "default", name, merge, NULL, &o, &err), "%s",
                  err.message);
    return o;
}

static inline void must_remove(enum kind kind, const char *name) {
    struct error err = {0};
    ck_assert_msg(store->ops->remove(store, kind, "default", name, NULL, &err), "%s", err.message);
}

static inline bool exists(enum kind kind, const char *namespace, const char *name) {
    cleanup_object struct object *o = store->ops->get(store, kind, namespace, name);
    return o != NULL;
}
