/* The warm pool's configuration: both of its forms, what may be stored, what is read of whatever is stored
 * (controller.md 10.1, http-api-extended.md 9.1 to 9.3). */
#include "backend/warmpool.h"
#include "common/bytes.h"
#include "common/json.h"

#include <check.h>

static json_t *parse(const char *text) {
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    ck_assert_msg(value != NULL, "%s", text);
    return value;
}

START_TEST(both_forms_are_one) {
    static const char *const rows[][2] = {
        {"{}", "[]"},
        {"{\"pools\":null}", "[]"},
        {"{\"pools\":[]}", "[]"},
        {"{\"template\":\"a\",\"desiredCount\":3}", "[{\"template\":\"a\",\"desiredCount\":3}]"},
        {"{\"template\":\"a\",\"desiredCount\":0}", "[]"},
        {"{\"template\":\"a\",\"desiredCount\":-1}", "[]"},
        {"{\"template\":\"\",\"desiredCount\":1}", "[]"},
        {"{\"pools\":[],\"template\":\"a\",\"desiredCount\":1}", "[{\"template\":\"a\",\"desiredCount\":1}]"},
        {"{\"pools\":[{\"template\":\"b\",\"desiredCount\":2}],\"template\":\"a\",\"desiredCount\":1}",
         "[{\"template\":\"b\",\"desiredCount\":2}]"},
        {"{\"pools\":{}}", NULL},
        {"{\"template\":7}", NULL},
        {"{\"template\":\"a\",\"desiredCount\":\"3\"}", NULL},
        {"[]", NULL},
        {"null", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cleanup_error struct error err = {0};
        cleanup_json json_t *config = parse(rows[i][0]), *pools = warmpool_pools(config, &err);
        cleanup_json json_t *wanted = rows[i][1] ? parse(rows[i][1]) : NULL;
        ck_assert_msg(wanted ? json_equal(pools, wanted) : pools == NULL && err.status == 400, "%s",
                      rows[i][0]);
    }
}
END_TEST

START_TEST(what_may_be_stored) {
    static const char *const rows[][2] = {
        {"[]", NULL},
        {"[{\"template\":\"a\",\"desiredCount\":0},{\"template\":\"b\",\"desiredCount\":10}]", NULL},
        {"[{\"template\":\"a\"}]", NULL},
        {"[{\"desiredCount\":1}]", "pools[0].template is required"},
        {"[{\"template\":\"\",\"desiredCount\":1}]", "pools[0].template is required"},
        {"[3]", "pools[0].template is required"},
        {"[{\"template\":\"a\",\"desiredCount\":1},{\"template\":\"b\",\"desiredCount\":11}]",
         "pools[1].desiredCount must be 0-10"},
        {"[{\"template\":\"a\",\"desiredCount\":-1}]", "pools[0].desiredCount must be 0-10"},
        {"[{\"template\":\"a\",\"desiredCount\":1.5}]", "pools[0].desiredCount must be 0-10"},
        {"[{\"template\":\"a\",\"desiredCount\":1},{\"template\":\"a\",\"desiredCount\":2}]",
         "pools[1].template is that of pools[0], too"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cleanup_error struct error err = {0};
        cleanup_json json_t *pools = parse(rows[i][0]);
        ck_assert_msg(warmpool_check(pools, &err) == (rows[i][1] == NULL), "%s", rows[i][0]);
        if (!rows[i][1]) continue;
        ck_assert_str_eq(err.message, rows[i][1]);
        ck_assert_int_eq(err.status, 400);
    }
}
END_TEST

static struct object *map_of(const char *text) {
    json_t *json =
        json_pack("{s:{s:s, s:s, s:s, s:s}, s:{s:s?}}", "metadata", "name", WARMPOOL_CONFIG_MAP, "namespace",
                  "agenttier", "uid", "u", "resourceVersion", "1", "data", WARMPOOL_DATA_KEY, text);
    return object_new(KIND_CONFIG_MAP, json, 1);
}

START_TEST(what_is_stored_is_read_again) {
    cleanup_json json_t *pools =
        parse("[{\"template\":\"a\",\"desiredCount\":2,\"more\":1},{\"template\":\"b\",\"desiredCount\":1}]");
    cleanup_free char *text = warmpool_text(pools);
    ck_assert_str_eq(
        text,
        "{\"pools\":[{\"template\":\"a\",\"desiredCount\":2},{\"template\":\"b\",\"desiredCount\":1}]}");
    cleanup_object struct object *map = map_of(text);
    cleanup_json json_t *read = warmpool_read(map);
    ck_assert_int_eq(warmpool_desired(read, "a"), 2);
    ck_assert_int_eq(warmpool_desired(read, "b"), 1);
    ck_assert_int_eq(warmpool_desired(read, "c"), 0);
    ck_assert_int_eq(warmpool_desired(read, NULL), 3);
}
END_TEST

/* Others write the ConfigMap, too. */
START_TEST(of_what_others_wrote_the_good_entries_count) {
    static const struct {
        const char *text;
        int64_t a, all; /* -1: it is no configuration */
    } rows[] = {
        {"{\"template\":\"a\",\"desiredCount\":2}", 2, 2},
        {"{\"pools\":[{\"template\":\"a\",\"desiredCount\":1},{\"template\":\"a\",\"desiredCount\":5}]}", 1,
         1},
        {"{\"pools\":[{\"template\":\"a\",\"desiredCount\":99},{\"template\":\"b\",\"desiredCount\":1}]}", 0,
         1},
        {"{\"pools\":[null,7,{\"template\":\"a\",\"desiredCount\":1}]}", 1, 1},
        {"{}", 0, 0},
        {"", 0, 0},
        {"pools: []", -1, -1},
        {"[]", -1, -1},
        {"{\"pools\":7}", -1, -1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cleanup_object struct object *map = map_of(rows[i].text);
        cleanup_json json_t *pools = warmpool_read(map);
        ck_assert_msg((pools == NULL) == (rows[i].all < 0), "%s", rows[i].text);
        if (!pools) continue;
        ck_assert_int_eq(warmpool_desired(pools, "a"), rows[i].a);
        ck_assert_int_eq(warmpool_desired(pools, NULL), rows[i].all);
    }
    cleanup_json json_t *none = warmpool_read(NULL);
    ck_assert_int_eq(json_array_size(none), 0);
}
END_TEST

START_TEST(the_pool_of_a_pod) {
    static const char *const rows[][2] = {
        {"{\"agenttier.io/pooled\":\"true\",\"agenttier.io/pool-template\":\"t\"}", "t"},
        {"{\"agenttier.io/pooled\":\"false\",\"agenttier.io/pool-template\":\"t\"}", NULL},
        {"{\"agenttier.io/pool-template\":\"t\"}", NULL},
        {"{\"agenttier.io/pooled\":\"true\"}", NULL},
        {"{}", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cleanup_object struct object *pod =
            object_new(KIND_POD,
                       json_pack("{s:{s:s, s:s, s:s, s:s, s:o}}", "metadata", "name", "p", "namespace", "d",
                                 "uid", "u", "resourceVersion", "1", "labels", parse(rows[i][0])),
                       1);
        const char *its = warmpool_of(pod);
        ck_assert(rows[i][1] ? its && strcmp(its, rows[i][1]) == 0 : its == NULL);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("warmpool");
    TCase *tc = tcase_create("warmpool");
    tcase_add_test(tc, both_forms_are_one);
    tcase_add_test(tc, what_may_be_stored);
    tcase_add_test(tc, what_is_stored_is_read_again);
    tcase_add_test(tc, of_what_others_wrote_the_good_entries_count);
    tcase_add_test(tc, the_pool_of_a_pod);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
