/* What pods say, also pods that say nonsense. */
#include "common/bytes.h"
#include "common/json.h"
#include "common/text.h"
#include "controller/pod_state.h"

#include <check.h>

static struct object *pod(const char *metadata, const char *status) {
    cleanup_free char *text =
        xasprintf("{\"metadata\":{\"name\":\"p\",\"namespace\":\"n\"%s},\"status\":%s}", metadata, status);
    struct error err = {0};
    json_t *json = json_parse(slice_of(text), &err);
    ck_assert_msg(json != NULL, "%s: %s", err.message, text);
    return object_new(KIND_POD, json, 1);
}

#define MAIN(state)                                                                                          \
    "\"containerStatuses\":[{\"name\":\"side\",\"state\":{\"terminated\":{\"reason\":\"Error\"}}},"          \
    "{\"name\":\"sandbox\",\"containerID\":\"containerd://1\",\"state\":" state "}]"

START_TEST(states) {
    static const struct {
        const char *metadata, *status;
        enum pod_state state;
    } rows[] = {
        {"", "{}", POD_PENDING},
        {"", "null", POD_PENDING},
        {"", "{\"phase\":7,\"conditions\":[1,\"x\",{}]}", POD_PENDING},
        {"", "{\"phase\":\"Pending\"}", POD_PENDING},
        {"", "{\"phase\":\"Running\",\"conditions\":[{\"type\":\"Ready\",\"status\":\"False\"}]}",
         POD_PENDING},
        {"",
         "{\"phase\":\"Running\",\"conditions\":[{\"type\":\"X\"},{\"type\":\"Ready\",\"status\":\"True\"}]}",
         POD_READY},
        {"", "{\"phase\":\"Pending\",\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]}",
         POD_PENDING},
        {"", "{\"phase\":\"Running\"," MAIN("{\"terminated\":{\"exitCode\":0}}") "}", POD_SUCCEEDED},
        {"",
         "{\"phase\":\"Running\"," MAIN("{\"terminated\":{\"exitCode\":137,\"reason\":\"OOMKilled\"}}") "}",
         POD_FAILED},
        {"", "{\"phase\":\"Failed\"}", POD_FAILED},
        {"", "{\"phase\":\"Succeeded\"}", POD_SUCCEEDED},
        {",\"deletionTimestamp\":\"2026-01-01T00:00:00Z\"",
         "{\"phase\":\"Running\",\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]}", POD_ENDING},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cleanup_object struct object *o = pod(rows[i].metadata, rows[i].status);
        ck_assert_int_eq(pod_state(o), rows[i].state);
    }
}
END_TEST

START_TEST(W8_failures) {
    static const struct {
        const char *status;
        bool infrastructure;
        const char *reason;
    } rows[] = {
        {"{\"reason\":\"Evicted\",\"message\":\"low on memory\"," MAIN(
             "{\"terminated\":{\"reason\":\"Error\",\"exitCode\":137}}") "}",
         true, "Evicted: low on memory"},
        {"{\"reason\":\"NodeLost\"}", true, "NodeLost"},
        {"{" MAIN("{\"terminated\":{\"reason\":\"OOMKilled\",\"exitCode\":137}}") "}", true, "OOMKilled"},
        {"{" MAIN("{\"terminated\":{\"reason\":\"Error\",\"exitCode\":3}}") "}", false, "Error: exit code 3"},
        {"{" MAIN("{\"terminated\":{\"reason\":\"Error\",\"exitCode\":1,\"message\":\"no config\"}}") "}",
         false, "Error: no config"},
        {"{" MAIN("{\"terminated\":{\"reason\":\"Completed\",\"exitCode\":0}}") "}", false,
         "Completed: exit code 0"},
        {"{" MAIN("{\"terminated\":{\"reason\":\"ContainerStatusUnknown\",\"exitCode\":137,\"message\":"
                  "\"gone\"}}") "}",
         true, "ContainerStatusUnknown: gone"},
        {"{" MAIN("{\"waiting\":{\"reason\":\"CrashLoopBackOff\"}}") "}", true, "CrashLoopBackOff"},
        {"{\"initContainerStatuses\":[{\"name\":\"ok\",\"state\":{\"terminated\":{\"exitCode\":0}}},{"
         "\"name\":\"init-scripts\","
         "\"state\":{\"terminated\":{\"reason\":\"Error\",\"exitCode\":2}}}]}",
         false, "init container init-scripts: Error: exit code 2"},
        {"{}", true, "Unknown failure"},
        {"{\"containerStatuses\":{\"name\":1},\"initContainerStatuses\":7}", true, "Unknown failure"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cleanup_object struct object *o = pod("", rows[i].status);
        struct pod_failure failure;
        pod_failure(o, &failure);
        ck_assert_str_eq(failure.reason, rows[i].reason);
        ck_assert_int_eq(failure.infrastructure, rows[i].infrastructure);
    }
}
END_TEST

START_TEST(W9_obstacles) {
    static const struct {
        const char *status;
        bool hopeless;
        const char *text;
    } rows[] = {
        {"{}", false, ""},
        {"{" MAIN("{\"waiting\":{\"reason\":\"ContainerCreating\"}}") "}", false, ""},
        {"{" MAIN("{\"waiting\":{\"reason\":\"ImagePullBackOff\",\"message\":\"no such image\"}}") "}", false,
         "ImagePullBackOff: no such image"},
        {"{" MAIN("{\"waiting\":{\"reason\":\"InvalidImageName\"}}") "}", true, "InvalidImageName"},
        {"{\"conditions\":[{\"type\":\"PodScheduled\",\"status\":\"False\",\"reason\":\"Unschedulable\","
         "\"message\":\"0/1 nodes\"}]}",
         false, "Unschedulable: 0/1 nodes"},
        {"{\"initContainerStatuses\":[{\"name\":\"a\",\"state\":{\"waiting\":{\"reason\":\"ErrImagePull\"}}}]"
         "," MAIN("{\"waiting\":{\"reason\":\"PodInitializing\"}}") "}",
         false, "ErrImagePull"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cleanup_object struct object *o = pod("", rows[i].status);
        char text[POD_TEXT_MAX];
        bool hopeless = true;
        pod_obstacle(o, &hopeless, text);
        ck_assert_str_eq(text, rows[i].text);
        ck_assert_int_eq(hopeless, rows[i].hopeless);
    }
}
END_TEST

START_TEST(long_texts_are_cut_between_characters) {
    cleanup_buffer struct buffer status = {0};
    buffer_append_str(&status, "{\"reason\":\"Evicted\",\"message\":\"");
    for (int i = 0; i < 700; i++)
        buffer_append_str(&status, "\xc3\xbc");
    buffer_append_str(&status, "\"}");
    cleanup_object struct object *o = pod("", buffer_cstr(&status));
    struct pod_failure failure;
    pod_failure(o, &failure);
    ck_assert_uint_gt(strlen(failure.reason), 390);
    ck_assert(utf8_valid(slice_of(failure.reason)));
}
END_TEST

START_TEST(container_id_only_while_it_runs) {
    cleanup_object struct object *runs = pod(
                                     "",
                                     "{" MAIN("{\"running\":{\"startedAt\":\"2026-01-01T00:00:00Z\"}}") "}"),
                                 *ended = pod("", "{" MAIN("{\"terminated\":{}}") "}"), *none = pod("", "{}");
    ck_assert_str_eq(pod_container_id(runs), "containerd://1");
    ck_assert_str_eq(pod_container_id(ended), "");
    ck_assert_str_eq(pod_container_id(none), "");
    cleanup_object struct object *aged = pod(",\"creationTimestamp\":\"1970-01-01T00:01:00Z\"", "{}");
    ck_assert_int_eq(pod_created_at(aged), 60);
    ck_assert_int_eq(pod_created_at(none), 0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("pod_state");
    TCase *tc = tcase_create("pod_state");
    tcase_add_test(tc, states);
    tcase_add_test(tc, W8_failures);
    tcase_add_test(tc, W9_obstacles);
    tcase_add_test(tc, long_texts_are_cut_between_characters);
    tcase_add_test(tc, container_id_only_while_it_runs);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
