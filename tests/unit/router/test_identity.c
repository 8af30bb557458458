/* Who may do what to a sandbox: http-api.md 3.5, 3.8. */
#include "router/identity.h"
#include "tests/unit/router/fixture.h"

static const char sandbox_text[] =
    "{'metadata':{'name':'demo','namespace':'default','uid':'u-1'},'spec':{'createdBy':{'sub':'ana'},'"
    "sharing':{"
    "'users':[{'identity':'bo@x.org','level':'viewer'},{'identity':'cy','level':'collaborator'},"
    "{'identity':'','level':'collaborator'},7,{'level':'viewer'},{'identity':'odd','level':'owner'}],"
    "'groups':[{'identity':'team','level':'viewer'},{'identity':'core','level':'collaborator'},null]}}}";

static struct identity person(const char *sub, const char *email) {
    return (struct identity){.sub = (char *)(uintptr_t)sub, .email = (char *)(uintptr_t)email};
}

START_TEST(levels) {
    static const struct {
        const char *sub, *email, *groups;
        bool admin;
        enum access_level want;
    } rows[] = {
        {"ana", "", NULL, false, ACCESS_LEVEL_OWNER},
        {"root", "", NULL, true, ACCESS_LEVEL_OWNER},
        {"bo", "bo@x.org", NULL, false, ACCESS_LEVEL_VIEWER},
        {"bo@x.org", "", NULL, false, ACCESS_LEVEL_VIEWER},
        {"cy", "", NULL, false, ACCESS_LEVEL_COLLABORATOR},
        {"cy", "bo@x.org", NULL, false, ACCESS_LEVEL_COLLABORATOR},
        {"di", "", NULL, false, ACCESS_LEVEL_NONE},
        {"di", "", "['team']", false, ACCESS_LEVEL_VIEWER},
        {"di", "", "['team','core']", false, ACCESS_LEVEL_COLLABORATOR},
        {"di", "", "[7,null,'other','']", false, ACCESS_LEVEL_NONE},
        {"odd", "", NULL, false, ACCESS_LEVEL_VIEWER},
        {"", "", NULL, false, ACCESS_LEVEL_NONE},
        {"ANA", "", NULL, false, ACCESS_LEVEL_NONE},
    };
    cleanup_json json_t *sandbox = json_of(sandbox_text);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct identity id = person(rows[i].sub, rows[i].email);
        cleanup_json json_t *groups = rows[i].groups ? json_of(rows[i].groups) : NULL;
        id.groups = groups;
        id.is_admin = rows[i].admin;
        ck_assert_msg(identity_access(&id, sandbox) == rows[i].want, "row %zu", i);
    }
}
END_TEST

START_TEST(nobody_owns_a_sandbox_without_an_owner) {
    static const char *const texts[] = {
        "{'metadata':{'name':'a'}}",
        "{'metadata':{'name':'a'},'spec':{'createdBy':{'sub':''}}}",
        "{'metadata':{'name':'a'},'spec':{'createdBy':'ana','sharing':'all'}}",
        "{'metadata':{'name':'a'},'spec':{'createdBy':{'sub':3},'sharing':{'users':{},'groups':'x'}}}",
    };
    struct identity empty = person("", ""), ana = person("ana", "ana@x.org"), admin = person("root", "");
    admin.is_admin = true;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        cleanup_json json_t *sandbox = json_of(texts[i]);
        ck_assert_int_eq(identity_access(&empty, sandbox), ACCESS_LEVEL_NONE);
        ck_assert_int_eq(identity_access(&ana, sandbox), ACCESS_LEVEL_NONE);
        ck_assert_int_eq(identity_access(&admin, sandbox), ACCESS_LEVEL_OWNER);
    }
}
END_TEST

/* W-74: a key belongs to one life of a sandbox. */
START_TEST(scoped_key_opens_one_sandbox_only) {
    cleanup_json json_t *sandbox = json_of(sandbox_text);
    struct identity key = person("ana", "");
    char demo[] = "demo", other[] = "other", uid[] = "u-1", later[] = "u-2";
    key.sandbox_id = demo;
    ck_assert_int_eq(identity_access(&key, sandbox), ACCESS_LEVEL_OWNER);
    key.sandbox_uid = uid;
    ck_assert_int_eq(identity_access(&key, sandbox), ACCESS_LEVEL_OWNER);
    key.sandbox_uid = later;
    ck_assert_int_eq(identity_access(&key, sandbox), ACCESS_LEVEL_NONE);
    key.sandbox_uid = uid;
    char home[] = "default", elsewhere[] = "team-b";
    key.sandbox_namespace = home;
    ck_assert_int_eq(identity_access(&key, sandbox), ACCESS_LEVEL_OWNER);
    key.sandbox_namespace = elsewhere;
    ck_assert_int_eq(identity_access(&key, sandbox), ACCESS_LEVEL_NONE);
    key.sandbox_namespace = NULL;
    key.sandbox_uid = NULL;
    key.sandbox_id = other;
    ck_assert_int_eq(identity_access(&key, sandbox), ACCESS_LEVEL_NONE);
}
END_TEST

/* W-25: an address that the issuer does not vouch for opens nothing; the subject still does. */
START_TEST(W25_unverified_email) {
    cleanup_json json_t *sandbox = json_of(sandbox_text);
    struct identity bo = person("bo", "bo@x.org"), by_sub = person("bo@x.org", "");
    bo.email_unverified = by_sub.email_unverified = true;
    ck_assert_int_eq(identity_access(&bo, sandbox), ACCESS_LEVEL_NONE);
    ck_assert_int_eq(identity_access(&by_sub, sandbox), ACCESS_LEVEL_VIEWER);
}
END_TEST

static void assert_refused(const struct identity *id, enum action_group group, const char *sandbox,
                           const char *code) {
    cleanup_error struct error err = {0};
    struct route route = {.group = group};
    ck_assert(!identity_scope_allows(id, &route, sandbox, &err));
    ck_assert_int_eq(err.status, 403);
    ck_assert_str_eq(err.code, code);
}

START_TEST(scopes) {
    char demo[] = "demo";
    struct identity user = person("ana", "");
    struct identity key = person("ana", "");
    key.sandbox_id = demo;
    key.action_groups = 1u << GROUP_STOP;
    struct route stop = {.group = GROUP_STOP}, any = {.group = GROUP_ANY}, none = {.group = GROUP_NONE};
    ck_assert(identity_scope_allows(&user, &none, NULL, NULL));
    ck_assert(identity_scope_allows(&key, &stop, "demo", NULL));
    ck_assert(identity_scope_allows(&key, &any, "demo", NULL));
    assert_refused(&key, GROUP_NONE, "demo", "scope_route_not_permitted");
    assert_refused(&key, GROUP_NONE, NULL, "scope_route_not_permitted");
    assert_refused(&key, GROUP_STOP, NULL, "scope_route_not_permitted");
    assert_refused(&key, GROUP_STOP, "demo2", "scope_wrong_sandbox");
    assert_refused(&key, GROUP_ANY, "demo2", "scope_wrong_sandbox");
    assert_refused(&key, GROUP_ANY, "", "scope_wrong_sandbox");
    for (unsigned g = GROUP_RUN_COMMAND; g < GROUP_COUNT; g++) {
        ck_assert_ptr_nonnull(action_group_names[g]);
        if (g != GROUP_STOP) assert_refused(&key, (enum action_group)g, "demo", "scope_missing_group");
    }
}
END_TEST

START_TEST(W53_what_a_token_began_ends) {
    struct identity id = person("ana", "");
    ck_assert(!identity_outlived(&id, true, 5000000000)); /* no end */
    id.expires = 1000000;
    static const struct {
        time_t now;
        bool upgraded, other;
    } rows[] = {{999999, false, false}, {1000060, false, false}, {1000061, true, false},
                {1007260, true, false}, {1007261, true, true},   {9000000, true, true}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ck_assert_msg(identity_outlived(&id, true, rows[i].now) == rows[i].upgraded, "%zu", i);
        ck_assert_msg(identity_outlived(&id, false, rows[i].now) == rows[i].other, "%zu", i);
    }
}
END_TEST

RUN_TESTS("identity", W53_what_a_token_began_ends, levels, nobody_owns_a_sandbox_without_an_owner,
          scoped_key_opens_one_sandbox_only, W25_unverified_email, scopes)
