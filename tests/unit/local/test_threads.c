/* Readers, writers, watchers and conflicts at once; also run under ThreadSanitizer. */
#include "tests/unit/local/fixture.h"

#include <pthread.h>

#define WRITERS 4
#define READERS 4
#define ROUNDS  60
#define NAMES   8
#define WATCHES 20

static _Atomic bool done;
static _Atomic int increments;

static bool increment(void *ctx, json_t *object, struct error *err) {
    json_t *spec = json_object_get(object, "spec");
    json_object_set_new(spec, "n", json_integer(json_integer_value(json_object_get(spec, "n")) + 1));
    return true;
}

/* Increments a shared counter, and creates and removes names that the others use too. */
static void *write_much(void *arg) {
    unsigned seed = (unsigned)(uintptr_t)arg;
    for (int i = 0; i < ROUNDS; i++) {
        cleanup_error struct error err = {0};
        if (store_update(store, KIND_SANDBOX, STORE_MAIN, "default", "counter", increment, NULL, NULL,
                         &err)) {
            increments++;
        } else {
            ck_assert_str_eq(err.code, "conflict"); /* eight in a row */
            error_clear(&err);
        }
        cleanup_free char *name = xasprintf("n%d", rand_r(&seed) % NAMES);
        cleanup_json json_t *json = make("default", name, "", "");
        bool ok = rand_r(&seed) % 2 ? store->ops->create(store, KIND_SANDBOX, json, NULL, &err)
                                    : store->ops->remove(store, KIND_SANDBOX, "default", name, NULL, &err);
        ck_assert(ok || err.status == 409 || err.status == 404);
    }
    return NULL;
}

static void *view_of(const struct object *o) {
    return xstrdup(o->name);
}

static void *read_much(void *arg) {
    uint64_t last = 0;
    while (!done) {
        cleanup_object struct object *o = store->ops->get(store, KIND_SANDBOX, "default", "counter");
        ck_assert_uint_ge(o->generation, last); /* never back in time */
        last = o->generation;
        ck_assert_str_eq(object_view(o, view_of, free), "counter");
        cleanup_object_list struct object_list all = store->ops->list(store, KIND_SANDBOX, "default");
        for (size_t i = 1; i < all.count; i++)
            ck_assert(strcmp(all.items[i - 1]->name, all.items[i]->name) < 0);
        cleanup_object_list struct object_list found = store->ops->find(store, KIND_SANDBOX, "n1");
        ck_assert_uint_le(found.count, 1);
    }
    return NULL;
}

/* What a watcher knows must follow from the events alone: one state for each name. */
struct known {
    char versions[NAMES][24];
    int events;
};

static void follow(void *ctx, enum store_change change, struct object *o) {
    struct known *known = ctx;
    known->events++;
    if (o->name[0] != 'n') return;
    char *version = known->versions[o->name[1] - '0'];
    ck_assert_int_eq(version[0] == '\0', change == STORE_ADDED);
    snprintf(version, 24, "%s", change == STORE_DELETED ? "" : o->resource_version);
}

static void *watch_much(void *arg) {
    for (int i = 0; i < WATCHES; i++) {
        struct known known = {0};
        void *handle = store->ops->watch(store, KIND_SANDBOX, follow, &known);
        usleep(2000);
        store->ops->unwatch(store, handle);
        ck_assert_int_ge(known.events, 1);
    }
    return NULL;
}

START_TEST(all_at_once) {
    object_unref(must_create(KIND_SANDBOX, make("default", "counter", "", "\"spec\":{\"n\":0}")));
    struct known known = {0};
    void *handle = store->ops->watch(store, KIND_SANDBOX, follow, &known);
    pthread_t writers[WRITERS], readers[READERS], watcher;
    for (uintptr_t i = 0; i < READERS; i++)
        pthread_create(&readers[i], NULL, read_much, NULL);
    for (uintptr_t i = 0; i < WRITERS; i++)
        pthread_create(&writers[i], NULL, write_much, (void *)(i + 1));
    pthread_create(&watcher, NULL, watch_much, NULL);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    pthread_join(watcher, NULL);
    done = true;
    for (int i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    store->ops->unwatch(store, handle);

    cleanup_object struct object *o = store->ops->get(store, KIND_SANDBOX, "default", "counter");
    ck_assert_int_eq(json_integer_value(json_at(o->json, "spec.n")), increments); /* none lost */
    for (int i = 0; i < NAMES; i++) {
        cleanup_free char *name = xasprintf("n%d", i);
        cleanup_object struct object *n = store->ops->get(store, KIND_SANDBOX, "default", name);
        ck_assert_str_eq(known.versions[i], n ? n->resource_version : "");
    }
    /* Memory and file agree. */
    cleanup_object_list struct object_list before = store->ops->list(store, KIND_SANDBOX, NULL);
    reopen();
    cleanup_object_list struct object_list after = store->ops->list(store, KIND_SANDBOX, NULL);
    ck_assert_uint_eq(before.count, after.count);
    for (size_t i = 0; i < before.count; i++)
        ck_assert(json_equal(before.items[i]->json, after.items[i]->json));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("threads");
    TCase *tests = tcase_create("concurrency");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, all_at_once);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures == 0 ? 0 : 1;
}
