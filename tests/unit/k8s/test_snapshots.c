/* What a cluster says of its snapshots: the API, the classes, the default one (observed O8). */
#include "k8s/snapshots.h"

#include "common/json.h"

#include <check.h>

static json_t *json_of(const char *text) {
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    ck_assert_ptr_nonnull(value);
    return value;
}

START_TEST(O8_the_api_is_found_in_what_discovery_says) {
    static const struct {
        const char *groups;
        bool present;
    } rows[] = {
        {"{\"groups\":[{\"name\":\"apps\",\"versions\":[{\"version\":\"v1\"}]},{\"name\":\"snapshot.storage."
         "k8s.io\","
         "\"versions\":[{\"version\":\"v1beta1\"},{\"version\":\"v1\"}]}]}",
         true},
        {"{\"groups\":[{\"name\":\"snapshot.storage.k8s.io\",\"versions\":[{\"version\":\"v1beta1\"}]}]}",
         false},
        {"{\"groups\":[{\"name\":\"apps\",\"versions\":[{\"version\":\"v1\"}]}]}", false},
        {"{\"groups\":[]}", false},
        {"{}", false},
        {"[]", false},
        {"{\"groups\":[{\"name\":5,\"versions\":7},null,\"x\"]}", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cleanup_json json_t *groups = json_of(rows[i].groups);
        ck_assert_msg(snapshot_group_present(groups) == rows[i].present, "row %zu", i);
    }
    cleanup_json json_t *resources =
        json_of("{\"resources\":[{\"name\":\"volumesnapshots/status\"},{\"name\":\"volumesnapshots\"}]}");
    ck_assert(snapshot_resource_present(resources, "volumesnapshots"));
    ck_assert(!snapshot_resource_present(resources, "volumesnapshotclasses"));
    ck_assert(!snapshot_resource_present(NULL, "volumesnapshots"));
}
END_TEST

#define CLASS(name, flag)                                                                                    \
    "{\"metadata\":{\"name\":\"" name                                                                        \
    "\",\"annotations\":{\"snapshot.storage.kubernetes.io/is-default-class\":" flag "}}}"

START_TEST(O8_what_is_missing_is_named) {
    static const struct {
        const char *list, *class;
        int status;
        const char *code, *says;
    } rows[] = {
        {"{\"items\":[" CLASS("a", "\"false\"") "," CLASS("b", "\"true\"") "]}", NULL, 0, NULL, NULL},
        {"{\"items\":[" CLASS("a", "\"false\"") "]}", "a", 0, NULL, NULL},
        {"{\"items\":[]}", NULL, 501, "no_snapshot_class", "no VolumeSnapshotClass"},
        {"{\"items\":[]}", "a", 501, "no_snapshot_class", "no VolumeSnapshotClass"},
        {"{}", NULL, 501, "no_snapshot_class", "no VolumeSnapshotClass"},
        {"{\"items\":[" CLASS("a", "\"false\"") ",{\"metadata\":{\"name\":\"c\"}}]}", NULL, 409,
         "no_default_snapshot_class", "a, c"},
        {"{\"items\":[" CLASS("a", "true") "]}", NULL, 409, "no_default_snapshot_class", ": a"},
        {"{\"items\":[" CLASS("a", "\"true\"") "]}", "x", 400, "invalid_field", "there are: a"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cleanup_json json_t *list = json_of(rows[i].list);
        cleanup_error struct error err = {0};
        ck_assert_msg(snapshot_class_usable(list, rows[i].class, &err) == (rows[i].status == 0), "row %zu",
                      i);
        ck_assert_int_eq(err.status, rows[i].status);
        if (rows[i].code) ck_assert_str_eq(err.code, rows[i].code);
        if (rows[i].says)
            ck_assert_msg(strstr(err.message, rows[i].says) != NULL, "row %zu: %s", i, err.message);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("snapshots");
    TCase *t = tcase_create("snapshots");
    tcase_add_test(t, O8_the_api_is_found_in_what_discovery_says);
    tcase_add_test(t, O8_what_is_missing_is_named);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
