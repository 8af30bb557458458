/* What an apiserver answers: lists as they arrive, refusals, reviews; selectors, versions, paths, trimming.
 */
#include "common/json.h"
#include "k8s/intern.h"
#include "k8s/list_reader.h"
#include "k8s/paths.h"
#include "k8s/resource_version.h"
#include "k8s/selector.h"
#include "k8s/status.h"
#include "k8s/token_review.h"
#include "k8s/trim.h"
#include "tests/unit/common/suite.h"

static json_t *json_of(const char *text) {
    cleanup_free char *copy = xstrdup(text);
    for (char *c = copy; *c; c++)
        if (*c == '\'') *c = '"';
    json_t *value = json_loads(copy, JSON_DECODE_ANY, NULL);
    ck_assert_msg(value != NULL, "%s", text);
    return value;
}

/* ---- lists ---- */

struct seen {
    struct buffer items; /* joined by | */
    size_t refuse_at, count;
};

static bool on_item(void *ctx, struct slice text) {
    struct seen *seen = ctx;
    buffer_append(&seen->items, text.ptr, text.len);
    buffer_append_char(&seen->items, '|');
    return ++seen->count != seen->refuse_at;
}

/* Feeds in pieces of `step`; the head, or NULL. */
static json_t *read_list(const char *text, size_t step, struct seen *seen, struct error *err) {
    struct list_reader r;
    list_reader_init(&r, on_item, seen);
    bool ok = true;
    size_t len = strlen(text);
    for (size_t i = 0; i < len && ok; i += step)
        ok = list_reader_feed(&r, slice_make(text + i, len - i < step ? len - i : step), err);
    json_t *head = ok ? list_reader_end(&r, err) : NULL;
    list_reader_free(&r);
    return head;
}

START_TEST(lists_in_pieces_of_every_size) {
    static const char text[] =
        "{\"metadata\":{\"resourceVersion\":\"7\",\"items\":[1]} , \"items\" : [ {\"a\":\"]}\\\"[\"} ,"
        "\n{\"b\":{\"items\":[{}]}},{}\t], \"kind\":\"L\"}\n";
    for (size_t step = 1; step <= sizeof text; step++) {
        struct seen seen = {0};
        cleanup_error struct error err = {0};
        cleanup_json json_t *head = read_list(text, step, &seen, &err);
        ck_assert_msg(head != NULL, "step %zu: %s", step, err.message);
        ck_assert_str_eq(json_str_at(head, "metadata.resourceVersion"), "7");
        ck_assert_str_eq(json_str_at(head, "kind"), "L");
        ck_assert_str_eq(buffer_cstr(&seen.items), "{\"a\":\"]}\\\"[\"}|{\"b\":{\"items\":[{}]}}|{}|");
        buffer_free(&seen.items);
    }
}
END_TEST

START_TEST(S23_lists_that_are_none) {
    static const char *const texts[] = {
        "",
        "x",
        "[]",
        "{",
        "{\"items\":[",
        "{\"items\":[{",
        "{\"items\":[{}",
        "{\"items\":[{}]",
        "{\"items\":[1]}",
        "{\"items\":[\"x\"]}",
        "{\"items\":[[]]}",
        "{\"items\":[null]}",
        "{\"items\":[{}]}}",
        "{\"items\":[{}]}{}",
        "{\"metadata\":{\"a\":1,\"a\":2}}",
        "{\"items\":[]]}",
        "{\"a\":tru}",
    };
    for (size_t i = 0; i < COUNT(texts); i++) {
        struct seen seen = {0};
        cleanup_error struct error err = {0};
        cleanup_json json_t *head = read_list(texts[i], 3, &seen, &err);
        ck_assert_msg(!head && err.status == 502, "%s", texts[i]);
        buffer_free(&seen.items);
    }
    /* An object that has no items is a list of none, and its user looks for a version. */
    struct seen seen = {0};
    cleanup_json json_t *head = read_list("{\"items\":{}}", 3, &seen, NULL);
    ck_assert(head != NULL && seen.count == 0);
}
END_TEST

START_TEST(lists_above_the_limits) {
    cleanup_buffer struct buffer big = {0}, head = {0};
    buffer_append_str(&big, "{\"items\":[{\"a\":\"");
    for (int i = 0; i < LIST_READER_MAX_ITEM; i++)
        buffer_append_char(&big, 'x');
    buffer_append_str(&big, "\"}]}");
    buffer_append_str(&head, "{\"x\":\"");
    for (int i = 0; i < LIST_READER_MAX_HEAD; i++)
        buffer_append_char(&head, 'x');
    buffer_append_str(&head, "\"}");
    struct buffer *const all[] = {&big, &head};
    for (size_t i = 0; i < COUNT(all); i++) {
        struct seen seen = {0};
        cleanup_error struct error err = {0};
        ck_assert(read_list(buffer_cstr(all[i]), 16384, &seen, &err) == NULL);
        ck_assert_int_eq(err.status, 502);
        buffer_free(&seen.items);
    }
    struct seen seen = {.refuse_at = 2};
    ck_assert(read_list("{\"items\":[{},{},{}]}", 100, &seen, NULL) == NULL);
    ck_assert_uint_eq(seen.count, 2);
    buffer_free(&seen.items);
}
END_TEST

/* ---- refusals ---- */

struct refusal {
    long http;
    const char *body;
    int status;
    const char *code, *says;
};

START_TEST(W37_refusals) {
    static const struct refusal all[] = {
        {404, "{'reason':'NotFound','message':'sandboxes \\\"a\\\" not found','details':{'name':'a'}}", 404,
         ERR_NOT_FOUND, "not found"},
        {404, "{'reason':'NotFound','message':'the server could not find the requested resource'}", 503,
         ERR_UNAVAILABLE, "CRDs"},
        {409, "{'reason':'AlreadyExists','message':'m'}", 409, ERR_ALREADY_EXISTS, "m"},
        {409, "{'reason':'Conflict','message':'m'}", 409, ERR_CONFLICT, "m"},
        {409, "{}", 409, ERR_CONFLICT, "409"},
        {400, "{'message':'bad'}", 400, "admission_rejected", "bad"},
        {422, "{'message':'spec.x: Invalid value'}", 400, "admission_rejected", "spec.x"},
        {422, "{'message':'m','details':{'causes':[{'field':'metadata.uid'}]}}", 409, ERR_CONFLICT,
         "another object"},
        {401, "{'message':'Unauthorized'}", 503, ERR_UNAVAILABLE, "credentials"},
        {403,
         "{'message':'pods is forbidden: User \\\"u\\\" cannot create resource \\\"pods\\\" in API group'}",
         403, "kubernetes_forbidden", "cannot create"},
        {403, "{'message':'pods \\\"a\\\" is forbidden: exceeded quota: q'}", 403, "quota_exceeded",
         "exceeded quota"},
        {403, "{'message':'pods \\\"a\\\" is forbidden: violates PodSecurity'}", 403, "admission_rejected",
         "PodSecurity"},
        {403, "{'message':'m','details':{'causes':[{'reason':'NamespaceTerminating'}]}}", 409,
         "namespace_terminating", "m"},
        {410, "{'message':'too old'}", 409, ERR_CONFLICT, "too old"},
        {413, "{'message':'big'}", 413, "too_large", "big"},
        {429, "{'message':'slow'}", 503, ERR_UNAVAILABLE, "slow"},
        {500, "{'message':'etcd'}", 503, ERR_UNAVAILABLE, "etcd"},
        {503, "[]", 503, ERR_UNAVAILABLE, "503"},
        {504, "'text'", 503, ERR_UNAVAILABLE, "504"},
        {302, "{}", 502, "bad_answer", "302"},
        {418, "{'message':5,'reason':[],'details':'x'}", 502, "bad_answer", "418"},
    };
    for (size_t i = 0; i < COUNT(all); i++) {
        cleanup_json json_t *body = json_of(all[i].body);
        cleanup_error struct error err = {0};
        k8s_status_error(all[i].http, body, "create x", 0, &err);
        ck_assert_msg(err.status == all[i].status && strcmp(err.code, all[i].code) == 0 &&
                          strstr(err.message, all[i].says),
                      "%s: %d %s %s", all[i].body, err.status, err.code, err.message);
        ck_assert_msg((err.status == 503) == (err.retry_after > 0), "%s: %d", all[i].body, err.retry_after);
    }
}
END_TEST

START_TEST(retry_after) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *body = json_of("{'details':{'retryAfterSeconds':9}}");
    k8s_status_error(429, body, "w", 0, &err);
    ck_assert_int_eq(err.retry_after, 9);
    k8s_status_error(429, body, "w", 3, &err);
    ck_assert_int_eq(err.retry_after, 3);
    k8s_status_error(429, NULL, "w", 1000000, &err);
    ck_assert_int_eq(err.retry_after, 300);
    cleanup_json json_t *huge = json_of("{'details':{'retryAfterSeconds':9223372036854775807}}");
    k8s_status_error(503, huge, "w", 0, &err);
    ck_assert_int_eq(err.retry_after, 300);
}
END_TEST

/* ---- the rest ---- */

START_TEST(versions_are_compared_only_where_that_is_allowed) {
    int order;
    ck_assert(resource_version_compare("9", "10", &order) && order < 0);
    ck_assert(resource_version_compare("18446744073709551617", "18446744073709551616", &order) && order > 0);
    ck_assert(resource_version_compare("5", "5", &order) && order == 0);
    static const char *const opaque[] = {"", "0", "01", "-1", "1.0", "a", "1a", " 1", "1-2"};
    for (size_t i = 0; i < COUNT(opaque); i++) {
        ck_assert(!resource_version_compare(opaque[i], "5", &order));
        ck_assert(!resource_version_compare("5", opaque[i], &order));
    }
}
END_TEST

START_TEST(selectors) {
    cleanup_json json_t *o =
        json_of("{'metadata':{'name':'n','labels':{'a/b':'1','c':''}},'involvedObject':{'kind':'Sandbox'}}");
    ck_assert(selector_labels(NULL, o) && selector_labels("", o));
    ck_assert(selector_labels("a/b=1", o) && selector_labels("a/b==1,c", o) && selector_labels("c=", o));
    ck_assert(selector_labels("a/b!=2, d!=x", o));
    ck_assert(!selector_labels("a/b=2", o) && !selector_labels("d", o) && !selector_labels("a/b!=1", o));
    ck_assert(!selector_labels("a/b=1,d=1", o));
    ck_assert(selector_fields("involvedObject.kind=Sandbox,metadata.name=n", o));
    ck_assert(!selector_fields("metadata.name=m", o));
    ck_assert(selector_supported("a=b,c!=d,e") && selector_supported(NULL));
    ck_assert(!selector_supported("a in (b,c)") && !selector_supported("!a") && !selector_supported("=x"));
}
END_TEST

START_TEST(equal_texts_are_shared) {
    static struct intern texts;
    intern_init(&texts);
    cleanup_json json_t *a = json_of("{'phase':'Running','list':['x',{'y':'Running'}],'n':5,'z':null}");
    cleanup_json json_t *copy = json_deep_copy(a), *b = json_deep_copy(a);
    intern_tree(&texts, a);
    intern_tree(&texts, b);
    ck_assert(json_equal(a, copy) && json_equal(b, copy));
    json_t *phase = json_object_get(a, "phase");
    ck_assert(phase == json_object_get(b, "phase"));
    ck_assert(phase == json_object_get(json_array_get(json_object_get(b, "list"), 1), "y"));
    ck_assert(json_array_get(json_object_get(a, "list"), 0) == json_array_get(json_object_get(b, "list"), 0));
    /* More texts than it keeps, and one that is too long. */
    for (int i = 0; i < 3 * INTERN_SLOTS; i++) {
        cleanup_json json_t *one = json_object();
        cleanup_free char *text = xasprintf("%d", i);
        json_object_set_new(one, "k", json_string(text));
        intern_tree(&texts, one);
        ck_assert_str_eq(json_str_at(one, "k"), text);
    }
    char long_text[INTERN_MAX_TEXT + 2];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    cleanup_json json_t *c = json_pack("[ss]", long_text, long_text);
    intern_tree(&texts, c);
    ck_assert(json_array_get(c, 0) != json_array_get(c, 1));
    intern_free(&texts);
}
END_TEST

START_TEST(paths) {
    cleanup_buffer struct buffer p = {0};
    k8s_path(KIND_SANDBOX, "n s", "a/b", "status", &p);
    ck_assert_str_eq(buffer_cstr(&p), "/apis/agenttier.io/v1alpha1/namespaces/n%20s/sandboxes/a%2Fb/status");
    buffer_clear(&p);
    k8s_path(KIND_CLUSTER_SANDBOX_TEMPLATE, "ignored", "..", NULL, &p);
    k8s_path_query(&p, "x", "a=b&c");
    k8s_path_query(&p, "y", "");
    ck_assert_str_eq(buffer_cstr(&p),
                     "/apis/agenttier.io/v1alpha1/clustersandboxtemplates/..?x=a%3Db%26c&y=");
    buffer_clear(&p);
    k8s_path(KIND_SECRET, NULL, NULL, NULL, &p);
    ck_assert_str_eq(buffer_cstr(&p), "/api/v1/secrets");
}
END_TEST

START_TEST(I34_a_token_counts_only_for_an_audience_that_was_asked_for) {
    static const char *const audiences[] = {"agenttier", "other", NULL};
    struct token_review r;
    cleanup_json json_t *good =
        json_of("{'status':{'authenticated':true,'audiences':['x','agenttier'],'user':"
                "{'username':'system:serviceaccount:a:b','uid':'u','groups':['g',5]}}}");
    token_review_read(good, audiences, &r);
    ck_assert(r.authenticated);
    ck_assert_str_eq(r.username, "system:serviceaccount:a:b");
    ck_assert_uint_eq(json_array_size(r.groups), 1);
    token_review_free(&r);
    static const char *const bad[] = {
        "{}",
        "[]",
        "{'status':'x'}",
        "{'status':{'authenticated':true,'user':{'username':'u'}}}",
        "{'status':{'authenticated':true,'audiences':[],'user':{'username':'u'}}}",
        "{'status':{'authenticated':true,'audiences':'agenttier','user':{'username':'u'}}}",
        ("{'status':{'authenticated':true,'audiences':['https://"
         "kubernetes.default.svc'],'user':{'username':'u'}}}"),
        "{'status':{'authenticated':'true','audiences':['agenttier'],'user':{'username':'u'}}}",
        "{'status':{'authenticated':false,'audiences':['agenttier'],'user':{'username':'u'}}}",
        "{'status':{'authenticated':true,'audiences':['agenttier'],'user':{'username':''}}}",
        "{'status':{'authenticated':true,'audiences':['agenttier']}}"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        cleanup_json json_t *answer = json_of(bad[i]);
        token_review_read(answer, audiences, &r);
        ck_assert_msg(!r.authenticated && !r.username, "%s", bad[i]);
        token_review_free(&r);
    }
}
END_TEST

START_TEST(pods_are_trimmed_to_what_is_read) {
    cleanup_json json_t *pod = json_of("{'metadata':{'name':'p','labels':{'l':'v'},'annotations':{'a':'b'}},'"
                                       "spec':{'nodeName':'n','tolerations':[{}],"
                                       "'containers':[{'name':'c','image':'i','env':[{'name':'S','value':'"
                                       "secret'}],'ports':[]}],'volumes':[{'name':'v',"
                                       "'projected':{}},{'name':'w','persistentVolumeClaim':{'claimName':'q'}"
                                       "}]},'status':{'phase':'Running','podIP':"
                                       "'1.2.3.4','podIPs':[{'ip':'1.2.3.4'}],'qosClass':'x','"
                                       "containerStatuses':[{'name':'c','ready':true,'imageID':'x',"
                                       "'lastState':{},'state':{'running':{}}}],'conditions':[{'type':'Ready'"
                                       ",'status':'True','lastProbeTime':null},"
                                       "{'type':'Initialized','status':'True'},{'type':'PodScheduled','"
                                       "status':'False','message':'full'}]}}");
    trim_pod(pod);
    cleanup_json json_t *wanted =
        json_of("{'metadata':{'name':'p','labels':{'l':'v'},'annotations':{'a':'b'}},'spec':{'nodeName':'n','"
                "containers':[{'name':"
                "'c','image':'i'}],'volumes':[{'name':'w','persistentVolumeClaim':{'claimName':'q'}}]},'"
                "status':{'phase':'Running',"
                "'podIP':'1.2.3.4','containerStatuses':[{'name':'c','ready':true,'state':{'running':{}}}],'"
                "conditions':[{'type':"
                "'Ready','status':'True'},{'type':'PodScheduled','status':'False','message':'full'}]}}");
    ck_assert(json_equal(pod, wanted));
    static const char *const odd[] = {"{}", "{'spec':5,'status':'x'}",
                                      "{'spec':{'containers':{}},'status':[]}",
                                      "{'spec':{'containers':[5,null,'x']}}"};
    for (size_t i = 0; i < COUNT(odd); i++) {
        cleanup_json json_t *o = json_of(odd[i]);
        trim_pod(o);
        trim_event(o);
    }
}
END_TEST

RUN_SUITE("answers", lists_in_pieces_of_every_size, S23_lists_that_are_none, lists_above_the_limits,
          W37_refusals, retry_after, versions_are_compared_only_where_that_is_allowed, selectors,
          equal_texts_are_shared, paths, I34_a_token_counts_only_for_an_audience_that_was_asked_for,
          pods_are_trimmed_to_what_is_read)
