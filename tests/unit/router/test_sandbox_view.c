/* From a Sandbox to what the API shows, one and many: http-api.md 2.3, 2.4. */
#include "common/units.h"
#include "router/sandbox_list.h"
#include "router/sandbox_view.h"
#include "tests/unit/router/fixture.h"

static void assert_shown(const char *sandbox, const char *want) {
    cleanup_json json_t *object = json_of(sandbox);
    cleanup_json json_t *shown = sandbox_json(object);
    assert_json(shown, want);
}

START_TEST(a_running_sandbox) {
    assert_shown(
        "{'metadata':{'name':'demo-1','namespace':'default','uid':'u',"
        "'creationTimestamp':'2026-07-21T06:16:07.25+02:00'},"
        "'spec':{'mode':'agent','templateRef':{'name':'asked'},"
        "'createdBy':{'sub':'s','email':'ana@example.org','displayName':'Ana P'}},"
        "'status':{'phase':'Running','podName':'demo-1-pod','pvcName':'demo-1-workspace','message':'ok',"
        "'resolvedTemplate':'general-coding','lastActivityTimestamp':'2026-07-21T04:16:21Z'}}",
        "{'sandboxId':'demo-1','name':'demo-1','namespace':'default','status':'Running',"
        "'podName':'demo-1-pod','pvcName':'demo-1-workspace','templateRef':'general-coding',"
        "'template':'general-coding','mode':'agent','createdAt':'2026-07-21T04:16:07Z',"
        "'lastActivityAt':'2026-07-21T04:16:21Z','message':'ok',"
        "'createdBy':{'email':'ana@example.org','displayName':'Ana P'}}");
}
END_TEST

START_TEST(a_bare_sandbox) {
    assert_shown("{'metadata':{'name':'a','namespace':'n','creationTimestamp':'2026-07-21T04:16:07Z'},"
                 "'spec':{'templateRef':{'name':'asked'}}}",
                 "{'sandboxId':'a','name':'a','namespace':'n','status':'Creating','podName':'','pvcName':'',"
                 "'templateRef':'asked','template':'asked','mode':'code','createdAt':'2026-07-21T04:16:07Z',"
                 "'message':''}");
    assert_shown("{'metadata':{'name':'a','namespace':'n','deletionTimestamp':'2026-07-21T04:16:07Z'},"
                 "'spec':{'createdBy':{'sub':'s'}},'status':{'phase':'Running','message':7}}",
                 "{'sandboxId':'a','name':'a','namespace':'n','status':'Deleting','podName':'','pvcName':'',"
                 "'templateRef':'','template':'','mode':'code','createdAt':'','message':'',"
                 "'createdBy':{'email':'','displayName':''}}");
}
END_TEST

START_TEST(the_answer_of_create) {
    cleanup_json json_t *object = json_of(
        "{'metadata':{'name':'a','namespace':'n','creationTimestamp':'2026-07-21T04:16:07Z'},"
        "'spec':{'templateRef':{'name':'asked'}},'status':{'phase':'Running','resolvedTemplate':'x'}}");
    cleanup_json json_t *answer = sandbox_created_json(object);
    assert_json(answer,
                "{'sandboxId':'a','name':'a','namespace':'n','status':'Creating','templateRef':'asked',"
                "'template':'asked','createdAt':'2026-07-21T04:16:07Z'}");
}
END_TEST

/* ---- a stop under way ---- */

static bool stopping(const char *phase, const char *action, int64_t asked_s_ago) {
    char at[RFC3339_MAX];
    rfc3339_format(time(NULL) - (time_t)asked_s_ago, at);
    cleanup_json json_t *object =
        json_pack("{s:{s:{s:s, s:s}}, s:{s:s}}", "metadata", "annotations", ANNOTATION_ACTION, action,
                  ANNOTATION_STOPPED_AT, at, "status", "phase", phase);
    return sandbox_is_stopping(object);
}

START_TEST(a_stop_under_way) {
    ck_assert(stopping("Running", "stop", 3600));
    ck_assert(stopping("Running", "", 2)); /* it is being carried out */
    ck_assert(!stopping("Running", "resume", 3600));
    ck_assert(!stopping("Running", "", 3600));
    ck_assert(!stopping("Stopped", "stop", 2));
    ck_assert(!stopping("Creating", "", 2));
    cleanup_json json_t *bare = json_of("{'metadata':{},'status':{'phase':'Running'}}");
    ck_assert(!sandbox_is_stopping(bare));
}
END_TEST

/* ---- lists ---- */

static struct object *object_of(const char *namespace, const char *name, const char *owner, const char *phase,
                                const char *template, const char *shared_with) {
    cleanup_free char *text =
        xasprintf("{'metadata':{'namespace':'%s','name':'%s','uid':'u-%s-%s','resourceVersion':'1'},"
                  "'spec':{'createdBy':{'sub':'%s'},'templateRef':{'name':'%s'},"
                  "'sharing':{'users':[%s%s%s]}},'status':{'phase':'%s'}}",
                  namespace, name, namespace, name, owner, template,
                  shared_with[0] ? "{'level':'viewer','identity':'" : "", shared_with,
                  shared_with[0] ? "'}" : "", phase);
    return object_new(KIND_SANDBOX, json_of(text), 1);
}

static struct object_list some(void) {
    struct object_list l = {.items = xcalloc(5, sizeof(struct object *)), .count = 5};
    l.items[0] = object_of("a", "one", "ana", "Running", "x", "");
    l.items[1] = object_of("a", "two", "bo", "Stopped", "x", "ana");
    l.items[2] = object_of("a-b", "one", "ana", "", "y", "");
    l.items[3] = object_of("b", "six", "bo", "Running", "y", "");
    l.items[4] = object_of("b", "ten", "ana", "Running", "y", "bo");
    return l;
}

/* "namespace/name ..." of what is listed; the cursor, if any, in *cursor. */
static char *names(const struct identity *caller, const struct sandbox_filter *f, char **cursor) {
    cleanup_object_list struct object_list all = some();
    cleanup_buffer struct buffer text = {0}, out = {0};
    sandbox_list_render(&all, caller, f, f->shared ? sandbox_append_with_role : NULL,
                        (void *)(uintptr_t)caller, &text);
    ck_assert_int_eq(text.data[text.len - 1], '\n');
    cleanup_json json_t *answer = json_parse_object(buffer_slice(&text), NULL);
    ck_assert_ptr_nonnull(answer);
    ck_assert(json_is_array(json_object_get(answer, "sandboxes")));
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(answer, "sandboxes"), i, item) {
        const char *role = json_str_at(item, "role");
        buffer_printf(&out, "%s%s/%s%s%s", i > 0 ? " " : "", json_str_at(item, "namespace"),
                      json_str_at(item, "name"), role[0] ? ":" : "", role);
    }
    if (cursor) {
        const char *next = json_string_value(json_object_get(answer, "continue"));
        *cursor = next ? xstrdup(next) : NULL;
    }
    buffer_cstr(&out);
    return buffer_steal(&out, NULL);
}

static void assert_listed(const struct identity *caller, struct sandbox_filter f, const char *want) {
    char *cursor = NULL;
    cleanup_free char *got = names(caller, &f, &cursor);
    ck_assert_str_eq(got, want);
    ck_assert_ptr_null(cursor);
}

START_TEST(filters) {
    char ana_sub[] = "ana", root_sub[] = "root", none_sub[] = "";
    struct identity ana = {.sub = ana_sub}, root = {.sub = root_sub, .is_admin = true},
                    nobody = {.sub = none_sub};
    assert_listed(&ana, (struct sandbox_filter){0}, "a/one a-b/one b/ten");
    assert_listed(&ana, (struct sandbox_filter){.shared = true},
                  "a/one:owner a/two:viewer a-b/one:owner b/ten:owner");
    struct identity ana_root = {.sub = ana_sub, .is_admin = true};
    assert_listed(&ana_root, (struct sandbox_filter){.shared = true, .namespace = "a"},
                  "a/one:owner a/two:admin");
    assert_listed(&root, (struct sandbox_filter){0}, "a/one a/two a-b/one b/six b/ten");
    assert_listed(&nobody, (struct sandbox_filter){.shared = true}, "");
    assert_listed(&ana, (struct sandbox_filter){.status = "running"}, "a/one b/ten");
    assert_listed(&ana, (struct sandbox_filter){.status = "Creating"}, "a-b/one");
    assert_listed(&ana, (struct sandbox_filter){.status = "", .template = "", .namespace = ""},
                  "a/one a-b/one b/ten");
    assert_listed(&ana, (struct sandbox_filter){.status = "Nonsense"}, "");
    assert_listed(&ana, (struct sandbox_filter){.template = "y"}, "a-b/one b/ten");
    assert_listed(&root, (struct sandbox_filter){.template = "y", .namespace = "b", .status = "RUNNING"},
                  "b/six b/ten");
    assert_listed(&root, (struct sandbox_filter){.template = "x", .namespace = "b"}, "");
}
END_TEST

START_TEST(pages) {
    char root_sub[] = "root";
    struct identity root = {.sub = root_sub, .is_admin = true};
    for (size_t size = 1; size <= 6; size++) {
        cleanup_buffer struct buffer seen = {0};
        cleanup_free char *cursor = NULL;
        size_t count = 0;
        do {
            cleanup_sandbox_filter struct sandbox_filter f = {0};
            char limit[8];
            snprintf(limit, sizeof limit, "%zu", size);
            ck_assert(sandbox_filter_parse(limit, cursor, &f, NULL));
            free(steal_ptr(cursor));
            cleanup_free char *page = names(&root, &f, &cursor);
            buffer_printf(&seen, "%s%s", seen.len > 0 ? " " : "", page);
            ck_assert_uint_le(++count, 5);
        } while (cursor);
        ck_assert_str_eq(buffer_cstr(&seen), "a/one a/two a-b/one b/six b/ten");
        ck_assert_uint_eq(count, (5 + size - 1) / size);
    }
}
END_TEST

START_TEST(cursors_and_limits_that_are_not_ours) {
    static const char *const limits[] = {"0", "501", "-1", "1.5", "many", " 1", "99999999999999999999"};
    static const char *const cursors[] = {"x",        "=",       "YQ",      "YS9i=", "L2E",
                                          "YS8",      "YS9iL2M", "YS9CLg*", "QS9h",  "YS9CQg",
                                          "AAAA/AAA", "YS8A",    "Li4vLi4*"};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        cleanup_error struct error err = {0};
        cleanup_sandbox_filter struct sandbox_filter f = {0};
        ck_assert(!sandbox_filter_parse(limits[i], NULL, &f, &err));
        assert_field_error(&err, "limit");
    }
    for (size_t i = 0; i < sizeof cursors / sizeof cursors[0]; i++) {
        cleanup_error struct error err = {0};
        cleanup_sandbox_filter struct sandbox_filter f = {0};
        ck_assert_msg(!sandbox_filter_parse(NULL, cursors[i], &f, &err), "%s", cursors[i]);
        assert_field_error(&err, "continue");
    }
    cleanup_free char *endless = xcalloc(5000, 1);
    memset(endless, 'Y', 4996);
    cleanup_sandbox_filter struct sandbox_filter f = {0};
    ck_assert(!sandbox_filter_parse(NULL, endless, &f, NULL));
    ck_assert(sandbox_filter_parse("", "", &f, NULL));
    ck_assert_uint_eq(f.limit, 0);
    ck_assert(sandbox_filter_parse("500", "YS9i", &f, NULL));
    ck_assert_uint_eq(f.limit, 500);
    ck_assert_str_eq(f.after, "a/b");
}
END_TEST

RUN_TESTS("sandbox_view", a_running_sandbox, a_bare_sandbox, the_answer_of_create, a_stop_under_way, filters,
          pages, cursors_and_limits_that_are_not_ours)
