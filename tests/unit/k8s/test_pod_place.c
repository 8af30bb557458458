/* Whose pod it is, whether it may be dialed, and what became of it (lessons S15, S16; observed O5). */
#include "k8s/pod_place.h"

#include "common/json.h"
#include "k8s/runtime_probe.h"

#include <check.h>

static struct object *make(enum kind kind, const char *json) {
    json_error_t e;
    json_t *value = json_loads(json, 0, &e);
    ck_assert_msg(value != NULL, "%s: %s", e.text, json);
    return object_new(kind, value, 1);
}

#define SANDBOX                                                                                              \
    "{'metadata':{'name':'box','namespace':'ns','uid':'u1','resourceVersion':'1'},'status':{'podName':'box-" \
    "pod'}}"
#define META(extra)                                                                                          \
    "'metadata':{'name':'box-pod','namespace':'ns','uid':'p1','resourceVersion':'1',"                        \
    "'labels':{'agenttier.io/sandbox':'box'}" extra "}"
#define STATUS(extra)                                                                                        \
    "'status':{'phase':'Running','podIP':'10.1.2.3','containerStatuses':[{'name':'sidecar'},"                \
    "{'name':'sandbox','containerID':'c1','state':{'running':{}}}]" extra "}"

static char *quoted(const char *text) {
    char *out = xstrdup(text);
    for (char *c = out; *c; c++)
        if (*c == '\'') *c = '"';
    return out;
}
static struct object *object(enum kind kind, const char *text) {
    cleanup_free char *json = quoted(text);
    return make(kind, json);
}

static int find(const char *pod_json, struct pod_place *place) {
    struct error err = {0};
    cleanup_object struct object *sandbox = object(KIND_SANDBOX, SANDBOX);
    cleanup_object struct object *pod = pod_json ? object(KIND_POD, pod_json) : NULL;
    if (pod_place_find(sandbox, pod, place, &err)) return 0;
    ck_assert_str_eq(err.code, "sandbox_not_running");
    return err.status;
}

START_TEST(O5_S16_only_its_own_running_pod) {
    struct pod_place p;
    ck_assert_int_eq(find("{" META("") "," STATUS("") "}", &p), 0);
    ck_assert_str_eq(p.uid, "p1");
    ck_assert_str_eq(p.ip, "10.1.2.3");
    ck_assert_str_eq(p.container_id, "c1");
    ck_assert_int_eq(
        find("{" META(",'ownerReferences':[{'kind':'Sandbox','uid':'u1'}]") "," STATUS("") "}", &p), 0);
    ck_assert_int_eq(
        find("{" META(",'ownerReferences':[{'kind':'Sandbox','uid':'u0'}]") "," STATUS("") "}", &p), 409);
    ck_assert_int_eq(find("{" META(",'deletionTimestamp':'2026-01-01T00:00:00Z'") "," STATUS("") "}", &p),
                     409);
    ck_assert_int_eq(find("{" META("") ",'status':{'phase':'Pending'}}", &p), 409);
    ck_assert_int_eq(find("{" META("") "}", &p), 409);
    ck_assert_int_eq(
        find("{'metadata':{'name':'box-pod','namespace':'ns','uid':'p1','resourceVersion':'1'}," STATUS(
                 "") "}",
             &p),
        409);
    ck_assert_int_eq(find(NULL, &p), 409);
}
END_TEST

static const char *end_of(const char *pod_json) {
    static struct error err;
    struct pod_place p;
    ck_assert_int_eq(find("{" META("") "," STATUS("") "}", &p), 0);
    cleanup_object struct object *pod = pod_json ? object(KIND_POD, pod_json) : NULL;
    err = (struct error){0};
    bool gone = pod_place_gone(&p, pod, &err);
    if (gone) ck_assert_int_eq(err.status, 502);
    return gone ? err.code : "";
}

#define CONTAINER(text)                                                                                      \
    "{" META("") ",'status':{'phase':'Running','containerStatuses':[{'name':'sandbox'," text "}]}}"

START_TEST(what_became_of_it) {
    ck_assert_str_eq(end_of("{" META("") "," STATUS("") "}"), "");
    ck_assert_str_eq(
        end_of("{" META("") "," STATUS(",'conditions':[{'type':'Ready','status':'False','reason':'X'}]") "}"),
        "");
    ck_assert_str_eq(end_of(NULL), "pod_deleted");
    ck_assert_str_eq(
        end_of("{'metadata':{'name':'box-pod','namespace':'ns','uid':'p2','resourceVersion':'1'}," STATUS(
            "") "}"),
        "pod_deleted");
    ck_assert_str_eq(end_of("{" META("") ",'status':{'phase':'Failed','reason':'Evicted'}}"), "pod_evicted");
    ck_assert_str_eq(end_of("{" META("") ",'status':{'phase':'Failed','reason':'NodeShutdown'}}"),
                     "node_lost");
    ck_assert_str_eq(end_of("{" META("") ",'status':{'phase':'Running','conditions':"
                                         "[{'type':'Ready','reason':'NodeNotReady'}]}}"),
                     "node_lost");
    ck_assert_str_eq(end_of("{" META("") ",'status':{'phase':'Succeeded'}}"), "pod_ended");
    ck_assert_str_eq(end_of(CONTAINER("'containerID':'c1','state':{'terminated':{'reason':'OOMKilled'}}")),
                     "out_of_memory");
    ck_assert_str_eq(end_of(CONTAINER("'containerID':'c1','state':{'terminated':{'reason':'Error'}}")),
                     "pod_ended");
    ck_assert_str_eq(
        end_of(CONTAINER("'containerID':'c2','lastState':{'terminated':{'reason':'OOMKilled'}}")),
        "out_of_memory");
    ck_assert_str_eq(end_of(CONTAINER("'containerID':'c2','lastState':{}")), "container_restarted");
}
END_TEST

START_TEST(S15_addresses) {
    static const char *const bad[] = {
        "",           "127.0.0.1", "127.9.9.9",       "0.0.0.0",   "169.254.169.254",
        "224.0.0.1",  "240.0.0.1", "255.255.255.255", "localhost", "10.0.0.1:80",
        "::1",        "::",        "fe80::1",         "ff02::1",   "::ffff:127.0.0.1",
        "::127.0.0.1"};
    static const char *const good[] = {"10.0.0.1", "192.168.1.9", "100.64.0.1", "fd00::5", "2001:db8::1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct pod_place p = {0};
        strcpy(p.ip, bad[i]);
        struct error err = {0};
        ck_assert_msg(!pod_place_dialable(&p, &err) && err.status == 502, "%s", bad[i]);
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct pod_place p = {0};
        strcpy(p.ip, good[i]);
        ck_assert_msg(pod_place_dialable(&p, NULL), "%s", good[i]);
        p.host_network = true;
        ck_assert(!pod_place_dialable(&p, NULL));
    }
}
END_TEST

static enum pod_runtime runtime(const char *annotations) {
    struct pod_place p;
    ck_assert_int_eq(find("{" META("") "," STATUS("") "}", &p), 0);
    cleanup_free char *text = xasprintf("{'metadata':{'name':'box-pod','namespace':'ns','uid':'p1',"
                                        "'resourceVersion':'1','annotations':{%s}}}",
                                        annotations);
    cleanup_object struct object *pod = object(KIND_POD, text);
    return pod_runtime_of(pod, &p);
}

START_TEST(the_controllers_annotations) {
    ck_assert_int_eq(runtime(""), POD_RUNTIME_UNKNOWN);
    ck_assert_int_eq(runtime("'agenttier.io/runtime-ready':'c1'"), POD_RUNTIME_UNKNOWN);
    ck_assert_int_eq(runtime("'agenttier.io/runtime-delivery':'exec'"), POD_RUNTIME_COMING);
    ck_assert_int_eq(runtime("'agenttier.io/runtime-delivery':'exec','agenttier.io/runtime-ready':'c0'"),
                     POD_RUNTIME_COMING);
    ck_assert_int_eq(runtime("'agenttier.io/runtime-delivery':'exec','agenttier.io/runtime-ready':'c1'"),
                     POD_RUNTIME_READY);
}
END_TEST

START_TEST(health_and_tokens) {
    unsigned features;
    ck_assert(runtime_features(slice_of("{\"status\":\"ok\"}"), &features) && features == 0);
    ck_assert(runtime_features(slice_of("{\"status\":\"ok\",\"features\":[\"files\",\"x\",7,\"dial\"]}"),
                               &features));
    ck_assert_uint_eq(features, RUNTIME_FILES | RUNTIME_DIAL);
    ck_assert(!runtime_features(slice_of("{\"status\":\"bad\"}"), &features));
    ck_assert(!runtime_features(slice_of("ok"), &features));
    static const struct {
        const char *secret, *token;
    } cases[] = {{"{'data':{'token':'c2VjcmV0'}}", "secret"},
                 {"{'data':{'token':''}}", NULL},
                 {"{'data':{}}", NULL},
                 {"{}", NULL},
                 {"{'data':{'token':'%%%'}}", NULL},
                 {"{'data':{'token':'YQpi'}}", NULL},
                 {"{'data':{'token':7}}", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cleanup_free char *text = quoted(cases[i].secret);
        cleanup_json json_t *secret = json_loads(text, 0, NULL);
        char token[64] = "";
        ck_assert_int_eq(runtime_token(secret, token, sizeof token), cases[i].token != NULL);
        if (cases[i].token) ck_assert_str_eq(token, cases[i].token);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("pod_place");
    TCase *t = tcase_create("place");
    tcase_add_test(t, O5_S16_only_its_own_running_pod);
    tcase_add_test(t, what_became_of_it);
    tcase_add_test(t, S15_addresses);
    tcase_add_test(t, the_controllers_annotations);
    tcase_add_test(t, health_and_tokens);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
