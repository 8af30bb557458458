/* The local store's behaviour as a Kubernetes API server's. */
#include "tests/unit/local/fixture.h"

#include "common/secret.h"
#include "local/seed.h"

#include <sys/stat.h>

static void expect_error(bool ok, struct error *err, int status, const char *code) {
    ck_assert(!ok);
    ck_assert_msg(err->status == status && strcmp(err->code, code) == 0, "got %d %s: %s", err->status,
                  err->code, err->message);
    error_clear(err);
}

static void refuse_create(enum kind kind, json_t *json, int status, const char *code) {
    struct error err = {0};
    expect_error(store->ops->create(store, kind, json, NULL, &err), &err, status, code);
    json_decref(json);
}

START_TEST(create_sets_metadata) {
    cleanup_object struct object *o = must_create(
        KIND_SANDBOX,
        make("default", "a", "\"uid\":\"mine\",\"generation\":9,\"deletionTimestamp\":\"x\",\"foo\":1",
             "\"spec\":{\"mode\":\"code\"},\"status\":{\"phase\":\"Running\"}"));
    ck_assert_str_eq(o->name, "a");
    ck_assert_str_eq(o->namespace, "default");
    ck_assert_uint_eq(strlen(o->uid), UUID_LEN);
    ck_assert_str_eq(o->resource_version, "1");
    ck_assert_str_eq(json_str_at(o->json, "kind"), "Sandbox");
    ck_assert_str_eq(json_str_at(o->json, "apiVersion"), "agenttier.io/v1alpha1");
    ck_assert_int_eq(json_integer_value(json_at(o->json, "metadata.generation")), 1);
    const char *at = json_str_at(o->json, "metadata.creationTimestamp");
    ck_assert_uint_eq(strlen(at), strlen("2026-07-21T04:16:07Z"));
    ck_assert_ptr_null(json_at(o->json, "metadata.deletionTimestamp"));
    ck_assert_ptr_null(json_at(o->json, "metadata.foo"));
    ck_assert_ptr_null(json_object_get(o->json, "status")); /* as Kubernetes drops it */
    ck_assert_str_eq(json_str_at(o->json, "spec.mode"), "code");

    reopen();
    cleanup_object struct object *again = store->ops->get(store, KIND_SANDBOX, "default", "a");
    ck_assert_ptr_nonnull(again);
    ck_assert(json_equal(again->json, o->json));
    ck_assert_uint_eq(again->generation, o->generation);
}
END_TEST

START_TEST(create_checks) {
    object_unref(must_create(KIND_SANDBOX, make("default", "a", "", "")));
    refuse_create(KIND_SANDBOX, make("default", "a", "", ""), 409, "already_exists");
    object_unref(must_create(KIND_SANDBOX, make("other", "a", "", "")));
    refuse_create(KIND_SANDBOX, make("default", "b", "\"resourceVersion\":\"1\"", ""), 400, "invalid_field");
    refuse_create(KIND_SANDBOX,
                  parse("{\"metadata\":{\"name\":\"b\",\"namespace\":\"default\"},\"kind\":\"Pod\"}"), 400,
                  "invalid_field");
    refuse_create(KIND_SANDBOX, parse("{}"), 400, "invalid_field");
    refuse_create(KIND_SANDBOX, parse("[]"), 400, "bad_request");
    refuse_create(KIND_SANDBOX, make("default", "b", "", "\"spec\":[]"), 400, "invalid_field");
}
END_TEST

START_TEST(generate_name) {
    for (int i = 0; i < 20; i++) {
        cleanup_object struct object *o = must_create(
            KIND_EVENT, parse("{\"metadata\":{\"generateName\":\"box.\",\"namespace\":\"default\"}}"));
        ck_assert_uint_eq(strlen(o->name), 9);
        ck_assert(strncmp(o->name, "box.", 4) == 0);
    }
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_EVENT, "default");
    ck_assert_uint_eq(all.count, 20);
}
END_TEST

START_TEST(size_limit) {
    cleanup_free char *big = malloc(1600 * 1024);
    memset(big, 'x', 1600 * 1024 - 1);
    big[1600 * 1024 - 1] = '\0';
    json_t *json = make("default", "big", "", "\"data\":{}");
    json_object_set_new(json_object_get(json, "data"), "k", json_string(big));
    refuse_create(KIND_CONFIG_MAP, json, 413, "too_large");
    ck_assert(!exists(KIND_CONFIG_MAP, "default", "big"));
    big[1500 * 1024] = '\0';
    json = make("default", "big", "", "\"data\":{}");
    json_object_set_new(json_object_get(json, "data"), "k", json_string(big));
    object_unref(must_create(KIND_CONFIG_MAP, json));
}
END_TEST

START_TEST(get_find_list) {
    static const char *const namespaces[] = {"b", "a", "ab"};
    for (int n = 0; n < 3; n++) {
        object_unref(must_create(KIND_SANDBOX, make(namespaces[n], "two", "", "")));
        object_unref(must_create(KIND_SANDBOX, make(namespaces[n], "one", "", "")));
    }
    object_unref(must_create(KIND_CLUSTER_SANDBOX_TEMPLATE, make("", "one", "", "")));
    ck_assert(exists(KIND_SANDBOX, "ab", "one"));
    ck_assert(!exists(KIND_SANDBOX, "ab", "on"));
    ck_assert(!exists(KIND_SANDBOX, "", "one"));
    ck_assert(exists(KIND_CLUSTER_SANDBOX_TEMPLATE, NULL, "one"));
    ck_assert(exists(KIND_CLUSTER_SANDBOX_TEMPLATE, "", "one"));

    cleanup_object_list struct object_list found = store->ops->find(store, KIND_SANDBOX, "two");
    ck_assert_uint_eq(found.count, 3);
    ck_assert_str_eq(found.items[0]->namespace, "a");
    ck_assert_str_eq(found.items[1]->namespace, "ab");
    ck_assert_str_eq(found.items[2]->namespace, "b");
    cleanup_object_list struct object_list none = store->ops->find(store, KIND_SANDBOX, "tw");
    ck_assert_uint_eq(none.count, 0);
    cleanup_object_list struct object_list in = store->ops->list(store, KIND_SANDBOX, "a");
    ck_assert_uint_eq(in.count, 2);
    ck_assert_str_eq(in.items[0]->name, "one");
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_SANDBOX, NULL);
    ck_assert_uint_eq(all.count, 6);
    ck_assert_str_eq(all.items[5]->namespace, "b");
    cleanup_object_list struct object_list empty = store->ops->list(store, KIND_SANDBOX, "zz");
    ck_assert_uint_eq(empty.count, 0);
}
END_TEST

START_TEST(parts_are_apart) {
    object_unref(must_create(KIND_SANDBOX, make("default", "a", "", "\"spec\":{\"mode\":\"code\"}")));
    cleanup_object struct object *s =
        must_patch(KIND_SANDBOX, STORE_STATUS, "a",
                   "{\"status\":{\"phase\":\"Running\",\"message\":\"m\"},\"spec\":{\"mode\":\"agent\"},"
                   "\"metadata\":{\"labels\":{\"a\":\"b\"}}}");
    ck_assert_str_eq(json_str_at(s->json, "status.phase"), "Running");
    ck_assert_str_eq(json_str_at(s->json, "spec.mode"), "code");
    ck_assert_ptr_null(json_at(s->json, "metadata.labels"));
    ck_assert_int_eq(json_integer_value(json_at(s->json, "metadata.generation")), 1);

    cleanup_object struct object *m =
        must_patch(KIND_SANDBOX, STORE_MAIN, "a", "{\"status\":null,\"spec\":{\"mode\":\"agent\"}}");
    ck_assert_str_eq(json_str_at(m->json, "status.phase"), "Running");
    ck_assert_str_eq(json_str_at(m->json, "spec.mode"), "agent");
    ck_assert_int_eq(json_integer_value(json_at(m->json, "metadata.generation")), 2);

    cleanup_object struct object *n =
        must_patch(KIND_SANDBOX, STORE_STATUS, "a", "{\"status\":{\"message\":null}}");
    ck_assert_ptr_null(json_at(n->json, "status.message"));
    ck_assert_str_eq(json_str_at(n->json, "status.phase"), "Running");

    /* A replaced status is the whole status; without one it is gone. */
    cleanup_json json_t *bare = make("default", "a", "", "");
    struct error err = {0};
    ck_assert(store->ops->replace(store, KIND_SANDBOX, STORE_STATUS, bare, NULL, &err));
    cleanup_object struct object *o = store->ops->get(store, KIND_SANDBOX, "default", "a");
    ck_assert_ptr_null(json_object_get(o->json, "status"));
    ck_assert_str_eq(json_str_at(o->json, "spec.mode"), "agent");

    object_unref(must_create(KIND_SECRET, make("default", "s", "", "")));
    cleanup_json json_t *secret = make("default", "s", "", "");
    expect_error(store->ops->replace(store, KIND_SECRET, STORE_STATUS, secret, NULL, &err), &err, 400,
                 "bad_request");
}
END_TEST

START_TEST(protected_metadata) {
    cleanup_object struct object *o = must_create(KIND_SANDBOX, make("default", "a", "", "\"spec\":{}"));
    cleanup_object struct object *p =
        must_patch(KIND_SANDBOX, STORE_MAIN, "a",
                   "{\"metadata\":{\"creationTimestamp\":\"x\",\"generation\":7,\"deletionTimestamp\":\"x\","
                   "\"labels\":{\"a\":\"b\"}}}");
    ck_assert_str_eq(json_str_at(p->json, "metadata.creationTimestamp"),
                     json_str_at(o->json, "metadata.creationTimestamp"));
    ck_assert_int_eq(json_integer_value(json_at(p->json, "metadata.generation")), 1);
    ck_assert_ptr_null(json_at(p->json, "metadata.deletionTimestamp"));
    ck_assert_str_eq(p->uid, o->uid);
    ck_assert_str_eq(json_str_at(p->json, "metadata.labels.a"), "b");

    struct error err = {0};
    static const char *const refused[] = {"{\"metadata\":{\"name\":\"b\"}}",
                                          "{\"metadata\":{\"namespace\":\"b\"}}", "{\"metadata\":null}",
                                          "{\"kind\":\"Pod\"}"};
    for (size_t i = 0; i < 4; i++) {
        cleanup_json json_t *patch = parse(refused[i]);
        expect_error(
            store->ops->patch(store, KIND_SANDBOX, STORE_MAIN, "default", "a", patch, NULL, NULL, &err), &err,
            400, "invalid_field");
    }
    cleanup_json json_t *uid = parse("{\"metadata\":{\"uid\":\"other\"}}");
    expect_error(store->ops->patch(store, KIND_SANDBOX, STORE_MAIN, "default", "a", uid, NULL, NULL, &err),
                 &err, 409, "conflict");
    cleanup_json json_t *list = parse("[]");
    expect_error(store->ops->patch(store, KIND_SANDBOX, STORE_MAIN, "default", "a", list, NULL, NULL, &err),
                 &err, 400, "bad_request");
}
END_TEST

static int changes_seen;
static void count_change(void *ctx, enum store_change change, struct object *o) {
    changes_seen++;
}

START_TEST(noop_writes) {
    cleanup_object struct object *o = must_create(
        KIND_SANDBOX, make("default", "a", "\"labels\":{\"x\":\"y\"}", "\"spec\":{\"mode\":\"code\"}"));
    changes_seen = 0;
    void *handle = store->ops->watch(store, KIND_SANDBOX, count_change, NULL);
    struct error err = {0};
    struct object *r = NULL;
    ck_assert(store->ops->replace(store, KIND_SANDBOX, STORE_MAIN, o->json, &r, &err));
    ck_assert_ptr_eq(r, o);
    object_unref(r);
    r = must_patch(KIND_SANDBOX, STORE_MAIN, "a", "{\"spec\":{\"mode\":\"code\",\"x\":null}}");
    ck_assert_str_eq(r->resource_version, o->resource_version);
    object_unref(r);
    r = must_patch(KIND_SANDBOX, STORE_STATUS, "a", "{\"status\":null}");
    ck_assert_str_eq(r->resource_version, o->resource_version);
    object_unref(r);
    store->ops->unwatch(store, handle);
    ck_assert_int_eq(changes_seen, 1); /* the replayed one */
}
END_TEST

START_TEST(conflicts) {
    cleanup_object struct object *o = must_create(KIND_SANDBOX, make("default", "a", "", "\"spec\":{}"));
    object_unref(must_patch(KIND_SANDBOX, STORE_MAIN, "a", "{\"spec\":{\"mode\":\"code\"}}"));
    struct error err = {0};
    cleanup_json json_t *stale = json_deep_copy(o->json);
    json_object_set_new(json_object_get(stale, "spec"), "x", json_true());
    expect_error(store->ops->replace(store, KIND_SANDBOX, STORE_MAIN, stale, NULL, &err), &err, 409,
                 "conflict");
    cleanup_json json_t *patch = parse("{\"spec\":{\"x\":1}}");
    struct store_preconditions old = {.resource_version = o->resource_version};
    struct store_preconditions other = {.uid = "other"}, same = {.uid = o->uid};
    expect_error(store->ops->patch(store, KIND_SANDBOX, STORE_MAIN, "default", "a", patch, &old, NULL, &err),
                 &err, 409, "conflict");
    expect_error(
        store->ops->patch(store, KIND_SANDBOX, STORE_MAIN, "default", "a", patch, &other, NULL, &err), &err,
        409, "conflict");
    cleanup_json json_t *versioned = parse("{\"metadata\":{\"resourceVersion\":\"1\"},\"spec\":{\"x\":1}}");
    expect_error(
        store->ops->patch(store, KIND_SANDBOX, STORE_MAIN, "default", "a", versioned, NULL, NULL, &err), &err,
        409, "conflict");
    ck_assert(store->ops->patch(store, KIND_SANDBOX, STORE_MAIN, "default", "a", patch, &same, NULL, &err));
    expect_error(store->ops->remove(store, KIND_SANDBOX, "default", "a", &old, &err), &err, 409, "conflict");
    expect_error(store->ops->remove(store, KIND_SANDBOX, "default", "a", &other, &err), &err, 409,
                 "conflict");
    expect_error(store->ops->remove(store, KIND_SANDBOX, "default", "b", NULL, &err), &err, 404, "not_found");
    expect_error(store->ops->patch(store, KIND_SANDBOX, STORE_MAIN, "default", "b", patch, NULL, NULL, &err),
                 &err, 404, "not_found");
    /* Without a version a replacement is unconditional. */
    json_object_del(json_object_get(stale, "metadata"), "resourceVersion");
    ck_assert(store->ops->replace(store, KIND_SANDBOX, STORE_MAIN, stale, NULL, &err));
    ck_assert(store->ops->remove(store, KIND_SANDBOX, "default", "a", &same, &err));
}
END_TEST

START_TEST(finalizers) {
    object_unref(must_create(KIND_SANDBOX, make("default", "a", "\"finalizers\":[\"agenttier.io/x\"]", "")));
    must_remove(KIND_SANDBOX, "a");
    cleanup_object struct object *o = store->ops->get(store, KIND_SANDBOX, "default", "a");
    ck_assert_ptr_nonnull(o);
    ck_assert_str_ne(json_str_at(o->json, "metadata.deletionTimestamp"), "");
    must_remove(KIND_SANDBOX, "a"); /* again: success, nothing changes */
    cleanup_object struct object *same = store->ops->get(store, KIND_SANDBOX, "default", "a");
    ck_assert_ptr_eq(o, same);
    refuse_create(KIND_SANDBOX, make("default", "a", "", ""), 409, "already_exists");

    struct error err = {0};
    cleanup_json json_t *more =
        parse("{\"metadata\":{\"finalizers\":[\"agenttier.io/x\",\"agenttier.io/y\"]}}");
    expect_error(store->ops->patch(store, KIND_SANDBOX, STORE_MAIN, "default", "a", more, NULL, NULL, &err),
                 &err, 400, "invalid_field");
    object_unref(must_patch(KIND_SANDBOX, STORE_STATUS, "a", "{\"status\":{\"phase\":\"Deleting\"}}"));
    ck_assert(exists(KIND_SANDBOX, "default", "a"));
    cleanup_object struct object *last =
        must_patch(KIND_SANDBOX, STORE_MAIN, "a", "{\"metadata\":{\"finalizers\":null}}");
    ck_assert_str_eq(json_str_at(last->json, "status.phase"), "Deleting");
    ck_assert(!exists(KIND_SANDBOX, "default", "a"));
    reopen();
    ck_assert(!exists(KIND_SANDBOX, "default", "a"));
}
END_TEST

static json_t *owned_by(const char *namespace, const char *name, const struct object *owner,
                        const char *more) {
    cleanup_free char *metadata = xasprintf(
        "\"ownerReferences\":[{\"apiVersion\":\"v1\",\"kind\":\"%s\",\"name\":\"%s\",\"uid\":\"%s\"}]%s",
        resource_kinds[owner->kind].kind, owner->name, owner->uid, more);
    return make(namespace, name, metadata, "");
}

START_TEST(cascade) {
    cleanup_object struct object *box = must_create(KIND_SANDBOX, make("default", "box", "", ""));
    cleanup_object struct object *secret = must_create(KIND_SECRET, owned_by("default", "child", box, ""));
    object_unref(must_create(KIND_SERVICE, owned_by("default", "grandchild", secret, "")));
    object_unref(must_create(KIND_SERVICE,
                             owned_by("default", "held", box, ",\"finalizers\":[\"example.org/hold\"]")));
    object_unref(must_create(KIND_SERVICE, make("default", "free", "", "")));
    /* Two owners: it stays while one of them does. */
    cleanup_object struct object *other = must_create(KIND_SANDBOX, make("default", "other", "", ""));
    cleanup_free char *both = xasprintf(
        "\"ownerReferences\":[{\"apiVersion\":\"v1\",\"kind\":\"Sandbox\",\"name\":\"box\",\"uid\":\"%s\"},"
        "{\"apiVersion\":\"v1\",\"kind\":\"Sandbox\",\"name\":\"other\",\"uid\":\"%s\"}]",
        box->uid, other->uid);
    object_unref(must_create(KIND_SERVICE, make("default", "shared", both, "")));
    reopen(); /* the owner index is rebuilt from the file */
    must_remove(KIND_SANDBOX, "box");
    ck_assert(!exists(KIND_SECRET, "default", "child"));
    ck_assert(!exists(KIND_SERVICE, "default", "grandchild"));
    ck_assert(exists(KIND_SERVICE, "default", "free"));
    ck_assert(exists(KIND_SERVICE, "default", "shared"));
    cleanup_object struct object *held = store->ops->get(store, KIND_SERVICE, "default", "held");
    ck_assert_str_ne(json_str_at(held->json, "metadata.deletionTimestamp"), "");
    must_remove(KIND_SANDBOX, "other");
    ck_assert(!exists(KIND_SERVICE, "default", "shared"));

    refuse_create(KIND_SECRET, owned_by("default", "late", box, ""), 409, "conflict");
    reopen();
    ck_assert(!exists(KIND_SECRET, "default", "child"));
    ck_assert(exists(KIND_SERVICE, "default", "free"));
}
END_TEST

START_TEST(cascade_waits_for_the_finalizer) {
    cleanup_object struct object *box =
        must_create(KIND_SANDBOX, make("default", "box", "\"finalizers\":[\"agenttier.io/x\"]", ""));
    object_unref(must_create(KIND_SECRET, owned_by("default", "child", box, "")));
    must_remove(KIND_SANDBOX, "box");
    ck_assert(exists(KIND_SECRET, "default", "child"));
    object_unref(must_patch(KIND_SANDBOX, STORE_MAIN, "box", "{\"metadata\":{\"finalizers\":[]}}"));
    ck_assert(!exists(KIND_SECRET, "default", "child"));
}
END_TEST

/* A watcher that writes down what it saw, and reads the store while it does. */
struct seen {
    char text[1024];
};

static void write_down(void *ctx, enum store_change change, struct object *o) {
    struct seen *seen = ctx;
    cleanup_object struct object *now = store->ops->get(store, o->kind, o->namespace, o->name);
    ck_assert((now == NULL) == (change == STORE_DELETED));
    size_t len = strlen(seen->text);
    snprintf(seen->text + len, sizeof(seen->text) - len, "%c%s@%s ", "AMD"[change], o -> name,
             o -> resource_version);
}

START_TEST(watches) {
    object_unref(must_create(KIND_SANDBOX, make("default", "b", "", "")));
    object_unref(must_create(KIND_SANDBOX, make("default", "a", "", "")));
    object_unref(must_create(KIND_SECRET, make("default", "s", "", "")));
    struct seen seen = {{0}};
    void *handle = store->ops->watch(store, KIND_SANDBOX, write_down, &seen);
    object_unref(must_patch(KIND_SANDBOX, STORE_STATUS, "a", "{\"status\":{\"phase\":\"x\"}}"));
    object_unref(must_create(KIND_SANDBOX, make("default", "c", "", "")));
    must_remove(KIND_SANDBOX, "b");
    store->ops->unwatch(store, handle);
    must_remove(KIND_SANDBOX, "c");
    ck_assert_str_eq(seen.text, "Aa@2 Ab@1 Ma@4 Ac@5 Db@1 ");
}
END_TEST

START_TEST(secrets) {
    cleanup_object struct object *o =
        must_create(KIND_SECRET, make("default", "s", "",
                                      "\"data\":{\"a\":\"YQ==\"},\"stringData\":{\"b\":\"bb\",\"c\":\"\"}"));
    ck_assert_str_eq(json_str_at(o->json, "data.a"), "YQ==");
    ck_assert_str_eq(json_str_at(o->json, "data.b"), "YmI=");
    ck_assert_str_eq(json_str_at(o->json, "data.c"), "");
    ck_assert_str_eq(json_str_at(o->json, "type"), "Opaque");
    ck_assert_ptr_null(json_object_get(o->json, "stringData"));
    cleanup_object struct object *p =
        must_patch(KIND_SECRET, STORE_MAIN, "s", "{\"stringData\":{\"a\":\"new\"},\"data\":{\"b\":null}}");
    ck_assert_str_eq(json_str_at(p->json, "data.a"), "bmV3");
    ck_assert_ptr_null(json_at(p->json, "data.b"));
    refuse_create(KIND_SECRET, make("default", "t", "", "\"data\":{\"a\":\"?\"}"), 400, "invalid_field");
    refuse_create(KIND_SECRET, make("default", "t", "", "\"data\":{\"a/b\":\"\"}"), 400, "invalid_field");
    refuse_create(KIND_SECRET, make("default", "t", "", "\"stringData\":{\"a\":1}"), 400, "invalid_field");
    refuse_create(KIND_CONFIG_MAP, make("default", "t", "", "\"data\":{\"a\":1}"), 400, "invalid_field");
}
END_TEST

static void whole_secret(void *ctx, enum store_change change, struct object *o) {
    struct buffer *seen = ctx;
    ck_assert_ptr_nonnull(o->json);
    ck_assert_str_eq(json_str_at(o->json, "metadata.name"), o->name);
    buffer_printf(seen, "%c%s=%s ", "AMD"[change], o -> name, json_str_at(o->json, "data.a"));
}

/* An index keeps them as text: nobody who reads notices. */
START_TEST(packed_objects_are_whole_for_readers) {
    cleanup_buffer struct buffer seen = {0};
    cleanup_object struct object *s =
        must_create(KIND_SECRET, make("default", "s", "", "\"data\":{\"a\":\"YQ==\"}"));
    object_unref(must_create(KIND_SECRET,
                             make("default", "t", "\"finalizers\":[\"x/y\"]", "\"data\":{\"a\":\"dA==\"}")));
    reopen();
    void *handle = store->ops->watch(store, KIND_SECRET, whole_secret, &seen);
    cleanup_object struct object *got = store->ops->get(store, KIND_SECRET, "default", "s");
    ck_assert(json_equal(got->json, s->json) && got->generation == s->generation);
    ck_assert_str_eq(got->uid, s->uid);
    ck_assert_str_eq(got->resource_version, s->resource_version);
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_SECRET, NULL),
                                           named = store->ops->find(store, KIND_SECRET, "s");
    ck_assert_uint_eq(all.count, 2);
    ck_assert_uint_eq(named.count, 1);
    ck_assert(json_equal(all.items[0]->json, s->json) && json_equal(named.items[0]->json, s->json));
    cleanup_object struct object *same =
        must_patch(KIND_SECRET, STORE_MAIN, "s", "{\"data\":{\"a\":\"YQ==\"}}");
    ck_assert_str_eq(same->resource_version, s->resource_version); /* it changed nothing */
    ck_assert(json_equal(same->json, s->json));
    object_unref(must_patch(KIND_SECRET, STORE_MAIN, "s", "{\"data\":{\"a\":\"Yg==\"}}"));
    must_remove(KIND_SECRET, "s");
    must_remove(KIND_SECRET, "t"); /* waits for its finalizer */
    object_unref(must_patch(KIND_SECRET, STORE_MAIN, "t", "{\"metadata\":{\"finalizers\":null}}"));
    store->ops->unwatch(store, handle);
    ck_assert_str_eq(buffer_cstr(&seen), "As=YQ== At=dA== Ms=Yg== Ds=Yg== Mt=dA== Dt=dA== ");
    ck_assert(!exists(KIND_SECRET, "default", "s") && !exists(KIND_SECRET, "default", "t"));
}
END_TEST

static bool add_one(void *ctx, json_t *object, struct error *err) {
    json_t *spec = json_object_get(object, "spec");
    json_object_set_new(spec, "n", json_integer(json_integer_value(json_object_get(spec, "n")) + 1));
    int *interfere = ctx;
    if (interfere && (*interfere)-- > 0) {
        object_unref(must_patch(KIND_SANDBOX, STORE_MAIN, "a",
                                *interfere % 2 ? "{\"spec\":{\"x\":1}}" : "{\"spec\":{\"x\":2}}"));
    }
    return true;
}

static bool give_up(void *ctx, json_t *object, struct error *err) {
    error_set(err, 418, "teapot", "no");
    return false;
}

START_TEST(updates) {
    object_unref(must_create(KIND_SANDBOX, make("default", "a", "", "\"spec\":{\"n\":0}")));
    struct error err = {0};
    int interfere = 3;
    cleanup_object struct object *o = NULL;
    ck_assert(store_update(store, KIND_SANDBOX, STORE_MAIN, "default", "a", add_one, &interfere, &o, &err));
    ck_assert_int_eq(json_integer_value(json_at(o->json, "spec.n")), 1);
    ck_assert_int_ne(json_integer_value(json_at(o->json, "spec.x")), 0);
    interfere = 100;
    expect_error(
        store_update(store, KIND_SANDBOX, STORE_MAIN, "default", "a", add_one, &interfere, NULL, &err), &err,
        409, "conflict");
    expect_error(store_update(store, KIND_SANDBOX, STORE_MAIN, "default", "a", give_up, NULL, NULL, &err),
                 &err, 418, "teapot");
    expect_error(store_update(store, KIND_SANDBOX, STORE_MAIN, "default", "b", add_one, NULL, NULL, &err),
                 &err, 404, "not_found");
}
END_TEST

START_TEST(seeding) {
    struct error err = {0};
    ck_assert_msg(local_store_seed(store, &err), "%s", err.message);
    ck_assert(exists(KIND_CLUSTER_SANDBOX_TEMPLATE, "", "general-coding"));
    ck_assert(store->ops->remove(store, KIND_CLUSTER_SANDBOX_TEMPLATE, "", "general-coding", NULL, &err));
    reopen();
    ck_assert(local_store_seed(store, &err));
    ck_assert(!exists(KIND_CLUSTER_SANDBOX_TEMPLATE, "", "general-coding"));
    ck_assert(exists(KIND_CLUSTER_SANDBOX_TEMPLATE, "", "minimal-shell"));
}
END_TEST

static void *count_views(const struct object *o) {
    changes_seen++;
    return xstrdup(o->name);
}

START_TEST(views) {
    cleanup_object struct object *o = must_create(KIND_SANDBOX, make("default", "a", "", ""));
    changes_seen = 0;
    const char *view = object_view(o, count_views, free);
    ck_assert_str_eq(view, "a");
    ck_assert_ptr_eq(object_view(o, count_views, free), view);
    ck_assert_int_eq(changes_seen, 1);
}
END_TEST

START_TEST(file_modes) {
    struct stat st;
    cleanup_free char *file = xasprintf("%s/state.db", state_dir);
    ck_assert_int_eq(stat(file, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0600);
    ck_assert(store->ops->ready(store, NULL));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("local store");
    TCase *tests = tcase_create("semantics");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 30);
    const TTest *all[] = {create_sets_metadata,
                          create_checks,
                          generate_name,
                          size_limit,
                          get_find_list,
                          parts_are_apart,
                          protected_metadata,
                          noop_writes,
                          conflicts,
                          finalizers,
                          cascade,
                          cascade_waits_for_the_finalizer,
                          watches,
                          secrets,
                          packed_objects_are_whole_for_readers,
                          updates,
                          seeding,
                          views,
                          file_modes};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        tcase_add_test(tests, all[i]);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures == 0 ? 0 : 1;
}
