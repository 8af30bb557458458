/* What goes into the history: cleaned texts, outcomes, Events as entries. S28, W-48;
 * http-api-extended.md 8.1. */
#include "router/audit.h"
#include "tests/unit/router/fixture.h"

static void cleaned(const char *in, size_t len, const char *want) {
    cleanup_buffer struct buffer out = {0};
    audit_text(slice_make(in, len), &out);
    ck_assert_str_eq(buffer_cstr(&out), want);
}
#define CLEANED(in, want) cleaned(in, sizeof(in) - 1, want)

START_TEST(S28_control_characters_are_shown_not_sent) {
    CLEANED("", "");
    CLEANED("plain name-1_x.y/z", "plain name-1_x.y/z");
    CLEANED("a\r\nFAKE entry", "a\\x0d\\x0aFAKE entry");
    CLEANED("\033[31mred\a", "\\x1b[31mred\\x07");
    CLEANED("nul\0in it\177", "nul\\x00in it\\x7f");
    CLEANED("c1 \xc2\x9b"
            "31m",
            "c1 \\x9b31m");
    CLEANED("two\xe2\x80\xa8lines\xe2\x80\xa9", "two\\u2028lines\\u2029");
    CLEANED("\xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80", "\xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80");
    CLEANED("bad \xff\xc3", "bad \xef\xbf\xbd\xef\xbf\xbd");
}
END_TEST

START_TEST(S28_credentials_are_taken_out) {
    CLEANED("atk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "[redacted]");
    CLEANED("files/atk_AAAAAAAAAAAAAAAAAAAAAAAA.txt", "files/[redacted]");
    CLEANED("token=eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ1MSJ9.c2ln", "token=[redacted]");
    CLEANED("Bearer abcdefgh12345678 next", "[redacted] next");
    CLEANED("bearer of news", "bearer of news");
    CLEANED("atk_short", "atk_short");
    CLEANED("task-abcdefghijklmnopqrstuvwxyz", "task-abcdefghijklmnopqrstuvwxyz");
    CLEANED("sk-abcdefghijklmnopqrstuvwxyz", "[redacted]");
    CLEANED("xatk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "x[redacted]");
    CLEANED("flatk_of-some-longer-name", "flatk_of-some-longer-name");
    CLEANED("workspace/monkeyjobs/results/output.txt", "workspace/monkeyjobs/results/output.txt");
    /* The token of a share link, which looks like nothing in particular; and what is no such token. */
#define BARE "q3Zq0l8yV0b8xq4b1m1iYlTnqkJvN7o2m8d0Q7rYv3A"
    CLEANED(BARE, "[redacted]");
    CLEANED("a/" BARE "/b", "a/[redacted]/b");
    CLEANED(BARE "x", BARE "x");
    CLEANED("x" BARE, "x" BARE);
    CLEANED(BARE ".txt", BARE ".txt");
    CLEANED("0123456789abcdef0123456789abcdef0123456789a", "0123456789abcdef0123456789abcdef0123456789a");
}
END_TEST

START_TEST(S28_texts_of_clients_in_the_access_log) {
    static const struct {
        const char *in, *want;
    } rows[] = {
        {"/api/v1/sandboxes/box/files/workspace/a%20b.txt",
         "/api/v1/sandboxes/box/files/workspace/a%20b.txt"},
        {"/api/v1/share-links/" BARE, "/api/v1/share-links/[redacted]"},
        {"/x/%61tk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "/x/[redacted]"},
        {"/x/atk%5fAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA/%0a", "/x/[redacted]\\x0a"},
        {"/x/%61%zz", "/x/%61%zz"},
        {"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 "
         "Safari/537.36",
         "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 "
         "Safari/537.36"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cleanup_free char *got = audit_log_text(slice_of(rows[i].in));
        ck_assert_str_eq(got, rows[i].want);
    }
    ck_assert(audit_holds_credential(slice_of("id-atk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")));
    ck_assert(!audit_holds_credential(slice_of("0af7651916cd43dd8448eb211c80319c")));
    ck_assert(!audit_holds_credential(slice_of("7b1d4bd2-6c7c-4f1e-9d0a-3f6e0f0f5a11")));
}
END_TEST

START_TEST(S28_texts_are_bounded) {
    char *long_text = xcalloc(1, 100001);
    memset(long_text, 'a', 100000);
    for (size_t cut = 505; cut < 515; cut++) {
        memcpy(long_text + cut, "\xe2\x82\xac", 3);
        cleanup_buffer struct buffer out = {0};
        audit_text(slice_of(long_text), &out);
        ck_assert_uint_le(out.len, 512);
        ck_assert_uint_ge(out.len, 505);
        memset(long_text + cut, 'a', 3);
    }
    memset(long_text, '\n', 100000);
    cleanup_buffer struct buffer out = {0};
    audit_text(slice_of(long_text), &out);
    ck_assert_uint_le(out.len, 520);
    free(long_text);
}
END_TEST

START_TEST(outcomes) {
    static const struct {
        int status;
        bool aborted;
        const char *outcome;
    } cases[] = {{200, false, "success"},   {101, false, "success"}, {204, false, "success"},
                 {304, false, "success"},   {401, false, "denied"},  {403, false, "denied"},
                 {404, false, "not_found"}, {400, false, "refused"}, {409, false, "refused"},
                 {429, false, "refused"},   {500, false, "failed"},  {503, false, "failed"},
                 {200, true, "aborted"},    {0, false, "aborted"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        ck_assert_str_eq(audit_outcome(cases[i].status, cases[i].aborted), cases[i].outcome);
}
END_TEST

START_TEST(resources_of_actions) {
    ck_assert_str_eq(audit_resource("create"), "sandbox");
    ck_assert_str_eq(audit_resource("bulk.create"), "sandbox");
    ck_assert_str_eq(audit_resource("backup.restore"), "sandbox");
    ck_assert_str_eq(audit_resource("webhook.create"), "webhook");
    ck_assert_str_eq(audit_resource("key.delete"), "key");
    ck_assert_str_eq(audit_resource("policy.replace"), "policy");
    ck_assert_str_eq(audit_resource("keyboard"), "sandbox");
}
END_TEST

START_TEST(W48_every_row_that_changes_something_has_an_action) {
    for (size_t i = 0; i < route_count; i++) {
        const struct route *r = &routes[i];
        bool reads = strcmp(r->method, "GET") == 0;
        ck_assert_msg(reads || (r->audit && r->audit[0]), "%s %s has no audit action", r->method, r->pattern);
        for (const char *p = r->audit; p && *p; p++)
            ck_assert_msg((*p >= 'a' && *p <= 'z') || *p == '.' || *p == '_' || *p == ':' || *p == '-',
                          "%s: %s", r->operation_id, r->audit);
    }
}
END_TEST

START_TEST(events_as_entries) {
    char key[128];
    struct history_entry e;
    cleanup_json json_t *event =
        json_of("{'metadata':{'uid':'u1'},'involvedObject':{'kind':'Sandbox','name':'box','namespace':'ns'},"
                "'reason':'Running','message':'ready','type':'Normal','count':3,"
                "'firstTimestamp':'2026-03-04T10:00:00Z','lastTimestamp':'2026-03-04T11:21:00+01:00'}");
    ck_assert(event_entry(event, &e, key));
    ck_assert(e.is_event);
    ck_assert_str_eq(e.ts, "2026-03-04T10:21:00.000000000Z");
    ck_assert_str_eq(e.sandbox, "box");
    ck_assert_str_eq(e.namespace, "ns");
    ck_assert_str_eq(e.reason, "Running");
    ck_assert_str_eq(e.phase, "Running");
    ck_assert_str_eq(key, "u1/3/2026-03-04T10:21:00.000000000Z");
    cleanup_json json_t *shown = history_event_json(&e);
    assert_json(
        shown,
        "{'timestamp':'2026-03-04T10:21:00.000000000Z','eventType':'Running','sandboxId':'box','sandboxName':"
        "'box',"
        "'namespace':'ns','userEmail':'','details':{'kind':'event','type':'Normal','reason':'ready'}}");
    cleanup_json json_t *pod = json_of("{'involvedObject':{'kind':'Pod','name':'box'}}");
    ck_assert(!event_entry(pod, &e, key));
    cleanup_json json_t *empty = json_object();
    ck_assert(!event_entry(empty, &e, key));
    cleanup_json json_t *odd =
        json_of("{'involvedObject':{'kind':'Sandbox'},'lastTimestamp':5,'metadata':[],'count':'x'}");
    ck_assert(event_entry(odd, &e, key));
}
END_TEST

RUN_TESTS("audit", S28_control_characters_are_shown_not_sent, S28_credentials_are_taken_out,
          S28_texts_of_clients_in_the_access_log, S28_texts_are_bounded, outcomes, resources_of_actions,
          W48_every_row_that_changes_something_has_an_action, events_as_entries)
