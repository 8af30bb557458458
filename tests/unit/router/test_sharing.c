/* Whom a sandbox is shared with: http-api.md 2.13, 4.4; S30, W-13, W-84. */
#include "router/sharing.h"
#include "common/secret.h"
#include "tests/unit/router/fixture.h"

static struct identity person(const char *sub) {
    return (struct identity){.sub = (char *)(uintptr_t)sub};
}

static const char *spec_text(const json_t *spec) {
    static char text[4096];
    cleanup_json json_t *shown = share_json(spec);
    cleanup_free char *dump = json_dumps(shown, JSON_COMPACT | JSON_SORT_KEYS);
    snprintf(text, sizeof text, "%s", dump);
    return text;
}

START_TEST(grants_are_parsed) {
    static const struct {
        const char *body;
        unsigned list; /* 0 = refused */
    } rows[] = {
        {"{'identity':'bo','level':'viewer'}", SHARE_USERS},
        {"{'identity':'bo','level':'collaborator','kind':'user'}", SHARE_USERS},
        {"{'identity':'a/b c','level':'viewer','kind':'group'}", SHARE_GROUPS},
        {"{'identity':'bo','level':'viewer','kind':null}", SHARE_USERS},
        {"{'identity':'bo','level':'viewer','kind':''}", SHARE_USERS},
        {"{'identity':'bo','level':'viewer','kind':'Group'}", 0},
        {"{'identity':'bo','level':'viewer','kind':1}", 0},
        {"{'identity':'bo','level':'owner'}", 0},
        {"{'identity':'bo'}", 0},
        {"{'identity':'','level':'viewer'}", 0},
        {"{'identity':' bo','level':'viewer'}", 0},
        {"{'identity':'bo ','level':'viewer'}", 0},
        {"{'identity':'b\\u0009o','level':'viewer'}", 0},
        {"{'identity':['bo'],'level':'viewer'}", 0},
        {"{'level':'viewer'}", 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cleanup_json json_t *body = json_of(rows[i].body);
        cleanup_error struct error err = {0};
        struct share_grant grant;
        bool ok = share_grant_parse(body, &grant, &err);
        ck_assert_msg(ok == (rows[i].list != 0), "row %zu", i);
        if (ok) ck_assert_msg(grant.list == rows[i].list, "row %zu", i);
        if (!ok) ck_assert_int_eq(err.status, 400);
    }
}
END_TEST

START_TEST(grants_are_changed_in_place) {
    cleanup_json json_t *spec =
        json_of("{'sharing':{'users':[7,{'identity':'bo','level':'viewer'},{'level':'viewer'},"
                "{'identity':'cy','level':'viewer'},{'identity':'bo','level':'viewer'}],"
                "'groups':'none'}}");
    struct share_grant bo = {"bo", "collaborator", SHARE_USERS}, team = {"bo", "viewer", SHARE_GROUPS};
    ck_assert(share_add(spec, &bo, NULL));
    ck_assert(share_add(spec, &team, NULL));
    ck_assert_str_eq(spec_text(spec),
                     "{\"groups\":[{\"identity\":\"bo\",\"level\":\"viewer\"}],\"shareLinks\":[],"
                     "\"users\":[{\"identity\":\"bo\",\"level\":\"collaborator\"},"
                     "{\"identity\":\"cy\",\"level\":\"viewer\"}]}");
    ck_assert(share_remove(spec, "bo", SHARE_GROUPS));
    ck_assert(!share_remove(spec, "bo", SHARE_GROUPS));
    ck_assert(share_remove(spec, "bo", SHARE_USERS | SHARE_GROUPS));
    ck_assert_str_eq(spec_text(spec), "{\"groups\":[],\"shareLinks\":[],\"users\":[{\"identity\":\"cy\","
                                      "\"level\":\"viewer\"}]}");
    cleanup_json json_t *bare = json_object();
    ck_assert(!share_remove(bare, "bo", SHARE_USERS | SHARE_GROUPS));
    ck_assert_str_eq(spec_text(bare), "{\"groups\":[],\"shareLinks\":[],\"users\":[]}");
    ck_assert(share_add(bare, &bo, NULL));
    ck_assert_int_eq(json_array_size(json_at(bare, "sharing.users")), 1);
}
END_TEST

START_TEST(grants_have_a_limit) {
    cleanup_json json_t *spec = json_object();
    char name[16];
    struct share_grant grant = {name, "viewer", SHARE_USERS};
    for (int i = 0; i < SHARE_GRANTS_MAX; i++) {
        snprintf(name, sizeof name, "user-%d", i);
        ck_assert(share_add(spec, &grant, NULL));
    }
    cleanup_error struct error err = {0};
    ck_assert(share_add(spec, &grant, &err)); /* who is there may change */
    snprintf(name, sizeof name, "another");
    ck_assert(!share_add(spec, &grant, &err));
    ck_assert_int_eq(err.status, 409);
    ck_assert_str_eq(err.code, "share_limit_reached");
    grant.list = SHARE_GROUPS;
    ck_assert(share_add(spec, &grant, NULL));
}
END_TEST

START_TEST(links_are_parsed) {
    static const struct {
        const char *body;
        bool ok;
    } rows[] = {
        {"{}", true},
        {"{'level':'collaborator','expiresIn':'1h30m','maxUses':3}", true},
        {"{'level':null,'expiresIn':null,'maxUses':null}", true},
        {"{'level':'admin'}", false},
        {"{'expiresIn':'0s'}", false},
        {"{'expiresIn':'-1h'}", false},
        {"{'expiresIn':'1d'}", false},
        {"{'expiresIn':60}", false},
        {"{'maxUses':-1}", false},
        {"{'maxUses':2147483647}", true},
        {"{'maxUses':2147483648}", false},
        {"{'maxUses':1.0}", false},
        {"{'maxUses':'1'}", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cleanup_json json_t *body = json_of(rows[i].body);
        cleanup_error struct error err = {0};
        struct share_link_request q;
        ck_assert_msg(share_link_parse(body, &q, &err) == rows[i].ok, "row %zu", i);
        ck_assert_int_eq(err.status, rows[i].ok ? 0 : 400);
    }
}
END_TEST

#define NOW 1800000000

/* A sandbox of ana with one link; `token` gets what opens it. */
static json_t *linked(const char *level, int64_t expires_in_ns, int64_t max_uses, char *token) {
    json_t *sandbox = json_of("{'metadata':{'name':'demo','uid':'u'},'spec':{'createdBy':{'sub':'ana'}}}");
    struct share_link_request q = {level, expires_in_ns, max_uses};
    cleanup_json json_t *link = share_link_new(&q, NOW, token);
    ck_assert(share_link_add(json_object_get(sandbox, "spec"), link, NOW, NULL));
    return sandbox;
}

static json_int_t uses_of(const json_t *sandbox) {
    return json_integer_value(
        json_object_get(json_array_get(json_at(sandbox, "spec.sharing.shareLinks"), 0), "usedCount"));
}

/* What redeeming gives: a level, or minus the status. */
static int redeem(json_t *sandbox, const char *token, const char *who, time_t now) {
    struct identity id = person(who);
    cleanup_error struct error err = {0};
    enum access_level level;
    return share_link_redeem(sandbox, token, &id, now, &level, &err) ? (int)level : -err.status;
}

/* The longest duration that there is, 292 years, must not come out as a link that has expired. */
START_TEST(the_longest_link_lives) {
    char token[SHARE_TOKEN_LEN + 1];
    cleanup_json json_t *sandbox = linked("viewer", INT64_MAX, 0, token);
    const json_t *link = json_array_get(json_at(sandbox, "spec.sharing.shareLinks"), 0);
    ck_assert_str_eq(json_str_at(link, "expiresAt"), "2319-04-27T07:47:17Z");
    ck_assert_int_eq(redeem(sandbox, token, "bo", NOW + 1), ACCESS_LEVEL_VIEWER);
}
END_TEST

START_TEST(only_the_hash_is_stored) {
    char token[SHARE_TOKEN_LEN + 1], hash[SHA256_HEX_LEN + 1];
    cleanup_json json_t *sandbox = linked("viewer", 1500000000, 2, token);
    const json_t *link = json_array_get(json_at(sandbox, "spec.sharing.shareLinks"), 0);
    ck_assert_int_eq(strlen(token), 43);
    sha256_hex(slice_of(token), hash);
    ck_assert_str_eq(json_str_at(link, "tokenHash"), hash);
    ck_assert_ptr_null(json_object_get(link, "token"));
    ck_assert_int_eq(strlen(json_str_at(link, "id")), 16);
    ck_assert_str_eq(json_str_at(link, "expiresAt"),
                     "2027-01-15T08:00:02Z"); /* rounded up to whole seconds */
    cleanup_json json_t *answer = share_link_created_json(link, token);
    ck_assert_str_eq(json_str_at(answer, "token"), token);
    ck_assert_ptr_null(json_object_get(answer, "tokenHash"));
    ck_assert_ptr_null(strstr(spec_text(json_object_get(sandbox, "spec")), hash));
}
END_TEST

START_TEST(links_are_redeemed_and_counted) {
    char token[SHARE_TOKEN_LEN + 1];
    cleanup_json json_t *sandbox = linked("collaborator", 0, 2, token);
    ck_assert_int_eq(redeem(sandbox, "wrong", "bo", NOW), -404);
    ck_assert_int_eq(redeem(sandbox, token, "ana", NOW), ACCESS_LEVEL_OWNER);
    ck_assert_int_eq(uses_of(sandbox), 0);
    ck_assert_int_eq(redeem(sandbox, token, "bo", NOW), ACCESS_LEVEL_COLLABORATOR);
    ck_assert_int_eq(redeem(sandbox, token, "bo", NOW), ACCESS_LEVEL_COLLABORATOR);
    ck_assert_int_eq(uses_of(sandbox), 1);
    ck_assert_int_eq(redeem(sandbox, token, "cy", NOW), ACCESS_LEVEL_COLLABORATOR);
    ck_assert_int_eq(redeem(sandbox, token, "di", NOW), -410);
    ck_assert_int_eq(uses_of(sandbox), 2);
    struct identity di = person("di"), cy = person("cy");
    ck_assert_int_eq(identity_access(&di, sandbox), ACCESS_LEVEL_NONE);
    ck_assert_int_eq(identity_access(&cy, sandbox), ACCESS_LEVEL_COLLABORATOR);
}
END_TEST

START_TEST(links_expire_and_are_revoked) {
    char token[SHARE_TOKEN_LEN + 1];
    cleanup_json json_t *sandbox = linked("viewer", 10000000000, 0, token);
    ck_assert_int_eq(redeem(sandbox, token, "bo", NOW + 9), ACCESS_LEVEL_VIEWER);
    ck_assert_int_eq(redeem(sandbox, token, "cy", NOW + 10), -410);
    json_t *spec = json_object_get(sandbox, "spec");
    cleanup_free char *id =
        xstrdup(json_str_at(json_array_get(json_at(spec, "sharing.shareLinks"), 0), "id"));
    ck_assert(!share_link_remove(spec, ""));
    ck_assert(share_link_remove(spec, id));
    ck_assert(!share_link_remove(spec, id));
    ck_assert_int_eq(redeem(sandbox, token, "di", NOW), -404);
}
END_TEST

START_TEST(old_and_broken_links) {
    static const struct {
        const char *link;
        int want;
    } rows[] = {
        {"{'id':'a','token':'plain','level':'collaborator'}", ACCESS_LEVEL_COLLABORATOR},
        {"{'token':'plain','level':'viewer','maxUses':null,'usedCount':'x'}", ACCESS_LEVEL_VIEWER},
        {"{'token':'plain','level':'owner'}", ACCESS_LEVEL_VIEWER}, /* no level of ours: the lowest */
        {"{'token':'plain','tokenHash':'ab','level':'viewer'}",
         -404}, /* the hash alone counts when there is one */
        {"{'token':'plain','level':'viewer','expiresAt':'soon'}", -410},
        {"{'token':'plain','level':'viewer','expiresAt':7}", -410},
        {"{'token':'plain','level':'viewer','expiresAt':null}", ACCESS_LEVEL_VIEWER},
        {"{'token':'plain','level':'viewer','maxUses':1,'usedCount':1}", -410},
        {"{'token':'','tokenHash':'','level':'viewer'}", -404},
        {"'plain'", -404},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cleanup_json json_t *sandbox =
            json_of("{'metadata':{'name':'demo'},'spec':{'sharing':{'shareLinks':[]}}}");
        json_array_append_new(json_at(sandbox, "spec.sharing.shareLinks"), json_of(rows[i].link));
        ck_assert_msg(redeem(sandbox, "plain", "bo", NOW) == rows[i].want, "row %zu", i);
        ck_assert_int_eq(redeem(sandbox, "", "bo", NOW), -404);
    }
}
END_TEST

START_TEST(useless_links_make_room) {
    cleanup_json json_t *spec = json_object();
    struct share_link_request never = {"viewer", 0, 0}, brief = {"viewer", 1000000000, 0};
    char token[SHARE_TOKEN_LEN + 1];
    for (int i = 0; i < SHARE_LINKS_MAX; i++) {
        cleanup_json json_t *link = share_link_new(i % 2 ? &never : &brief, NOW, token);
        ck_assert(share_link_add(spec, link, NOW, NULL));
    }
    cleanup_error struct error err = {0};
    cleanup_json json_t *one = share_link_new(&never, NOW, token);
    ck_assert(!share_link_add(spec, one, NOW, &err));
    ck_assert_int_eq(err.status, 409);
    ck_assert(share_link_add(spec, one, NOW + 2, NULL));
    ck_assert_int_eq(json_array_size(json_at(spec, "sharing.shareLinks")), SHARE_LINKS_MAX / 2 + 1);
}
END_TEST

RUN_TESTS("sharing", grants_are_parsed, grants_are_changed_in_place, grants_have_a_limit, links_are_parsed,
          only_the_hash_is_stored, the_longest_link_lives, links_are_redeemed_and_counted,
          links_expire_and_are_revoked, old_and_broken_links, useless_links_make_room)
