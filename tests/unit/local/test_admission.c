/* Names and metadata: what is let in and what is not, value by value. */
#include "common/bytes.h"
#include "common/json.h"
#include "local/admission.h"

#include <check.h>

static char *repeat(char c, size_t n) {
    char *text = xcalloc(n + 1, 1);
    memset(text, c, n);
    return text;
}

/* Whether an object with that metadata member may be created; the refusal must name it. */
static bool admits(enum kind kind, const char *member, json_t *value) {
    cleanup_json json_t *object =
        json_pack("{s:{s:s, s:s}}", "metadata", "name", "n", "namespace", "default");
    if (!resource_kinds[kind].namespaced) json_object_del(json_object_get(object, "metadata"), "namespace");
    json_object_set_new(json_object_get(object, "metadata"), member, value);
    cleanup_error struct error err = {0};
    cleanup_json json_t *result = admission_create(kind, object, 0, &err);
    if (result != NULL) return true;
    ck_assert_int_eq(err.status, 400);
    ck_assert_str_eq(err.code, "invalid_field");
    cleanup_free char *field = xasprintf("metadata.%s", member);
    ck_assert_str_eq(json_str_at(err.details, "field"), field);
    return false;
}

static bool name_ok(enum kind kind, const char *name) {
    return admits(kind, "name", json_string(name));
}

START_TEST(names) {
    static const char *const good[] = {"a", "0", "a-b", "a.b", "a--b", "a.b-c.d", "9a"};
    static const char *const bad[] = {"",     "-a", "a-",  ".a",  "a.",     "a..b", "a.-b",
                                      "a-.b", "A",  "a_b", "a/b", "../etc", "a b",  "\xc3\xa9"};
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
        ck_assert_msg(name_ok(KIND_SANDBOX, good[i]), "%s", good[i]);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        ck_assert_msg(!name_ok(KIND_SANDBOX, bad[i]), "%s", bad[i]);
    cleanup_free char *longest = repeat('a', 253), *longer = repeat('a', 254), *label = repeat('a', 64);
    ck_assert(name_ok(KIND_SANDBOX, longest));
    ck_assert(!name_ok(KIND_SANDBOX, longer));
    ck_assert(!name_ok(KIND_SERVICE, label));
    ck_assert(!name_ok(KIND_SERVICE, "9a"));
    ck_assert(!name_ok(KIND_SERVICE, "a.b"));
    ck_assert(name_ok(KIND_SERVICE, "pf-a-80"));
    ck_assert(!admits(KIND_SANDBOX, "name", json_stringn("a\0b", 3)));
    ck_assert(!admits(KIND_SANDBOX, "name", json_integer(1)));
}
END_TEST

START_TEST(namespaces) {
    cleanup_free char *longest = repeat('a', 63), *longer = repeat('a', 64);
    ck_assert(admits(KIND_SANDBOX, "namespace", json_string("team-a")));
    ck_assert(admits(KIND_SANDBOX, "namespace", json_string(longest)));
    ck_assert(!admits(KIND_SANDBOX, "namespace", json_string(longer)));
    ck_assert(!admits(KIND_SANDBOX, "namespace", json_string("a.b")));
    ck_assert(!admits(KIND_SANDBOX, "namespace", json_string("")));
    ck_assert(!admits(KIND_SANDBOX, "namespace", json_null()));
    ck_assert(!admits(KIND_CLUSTER_SANDBOX_TEMPLATE, "namespace", json_string("a")));
}
END_TEST

static bool label_ok(const char *key, const char *value) {
    return admits(KIND_SANDBOX, "labels", json_pack("{s:s}", key, value));
}

START_TEST(labels_and_annotations) {
    cleanup_free char *longest = repeat('a', 63), *longer = repeat('a', 64);
    ck_assert(label_ok("a", ""));
    ck_assert(label_ok("A_b.c-d", "A_b.c-d"));
    ck_assert(label_ok("agenttier.io/managed", "true"));
    ck_assert(label_ok(longest, longest));
    static const char *const keys[] = {"", "/a", "a/", "a/b/c", "-a", "a b", "A.io/x", "x/"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
        ck_assert_msg(!label_ok(keys[i], "v"), "%s", keys[i]);
    static const char *const values[] = {"-a", "a-", "a b", "a/b", "\xc3\xa9"};
    for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++)
        ck_assert(!label_ok("a", values[i]));
    ck_assert(!label_ok(longer, "v"));
    ck_assert(!label_ok("a", longer));
    ck_assert(!admits(KIND_SANDBOX, "labels", json_pack("{s:i}", "a", 1)));
    ck_assert(!admits(KIND_SANDBOX, "labels", json_array()));
    ck_assert(admits(KIND_SANDBOX, "labels", json_null()));
    ck_assert(admits(KIND_SANDBOX, "annotations", json_pack("{s:s}", "example.org/a", "any text: {}")));
    ck_assert(!admits(KIND_SANDBOX, "annotations", json_pack("{s:b}", "a", 1)));
    cleanup_free char *huge = repeat('x', 256 * 1024);
    ck_assert(!admits(KIND_SANDBOX, "annotations", json_pack("{s:s}", "a", huge)));
}
END_TEST

START_TEST(finalizers_and_owners) {
    ck_assert(admits(KIND_SANDBOX, "finalizers", json_pack("[s]", "agenttier.io/sandbox-cleanup")));
    ck_assert(!admits(KIND_SANDBOX, "finalizers", json_pack("[s]", "")));
    ck_assert(!admits(KIND_SANDBOX, "finalizers", json_pack("[i]", 1)));
    ck_assert(!admits(KIND_SANDBOX, "finalizers", json_string("x")));
    ck_assert(admits(KIND_SECRET, "ownerReferences",
                     json_pack("[{s:s,s:s,s:s,s:s,s:b}]", "apiVersion", "v1", "kind", "Pod", "name", "p",
                               "uid", "u", "controller", 1)));
    ck_assert(!admits(KIND_SECRET, "ownerReferences",
                      json_pack("[{s:s,s:s,s:s}]", "apiVersion", "v1", "kind", "Pod", "name", "p")));
    ck_assert(!admits(KIND_SECRET, "ownerReferences", json_pack("[s]", "u")));
    ck_assert(!admits(KIND_SECRET, "ownerReferences", json_object()));
}
END_TEST

START_TEST(empty_metadata_is_left_out) {
    cleanup_json json_t *given = json_pack("{s:{s:s,s:s,s:{},s:[]},s:n}", "metadata", "name", "n",
                                           "namespace", "d", "labels", "finalizers", "spec");
    cleanup_json json_t *made = admission_create(KIND_SANDBOX, given, 0, NULL);
    ck_assert_ptr_nonnull(made);
    ck_assert_ptr_null(json_at(made, "metadata.labels"));
    ck_assert_ptr_null(json_at(made, "metadata.finalizers"));
    ck_assert_ptr_null(json_object_get(made, "spec"));
    ck_assert_str_eq(json_str_at(made, "metadata.creationTimestamp"), "1970-01-01T00:00:00Z");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("admission");
    TCase *tests = tcase_create("metadata");
    tcase_add_test(tests, names);
    tcase_add_test(tests, namespaces);
    tcase_add_test(tests, labels_and_annotations);
    tcase_add_test(tests, finalizers_and_owners);
    tcase_add_test(tests, empty_metadata_is_left_out);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures == 0 ? 0 : 1;
}
