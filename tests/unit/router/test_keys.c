/* API keys: their records, the body that asks for one, and the table that authenticates.
 * http-api.md 2.16, 3.3. */
#include "common/text.h"
#include "router/key_record.h"
#include "tests/unit/router/fixture.h"

#include "local/local.h"

static const char key_text[] = "atk_V0c5x1n8m3H2q9T4k7Y6r0Z1b2N3d4F5g6J7l8P9sAQ";
static const struct timespec now = {1784607367, 512903441};

static struct key_request request_of(const char *user) {
    return (struct key_request){.user_id = user, .email = "ana@x.org", .name = "ci"};
}

static json_t *secret_of(const struct key_request *q) {
    return key_secret_new("agenttier", q, slice_of(key_text), now);
}

START_TEST(a_user_key) {
    struct key_request q = request_of("oidc|4711");
    cleanup_json json_t *secret = secret_of(&q);
    char hash[SHA256_HEX_LEN + 1];
    sha256_hex(slice_of(key_text), hash);
    cleanup_free char *id = xasprintf("agenttier-apikey-%.40s", hash);
    ck_assert_str_eq(json_str_at(secret, "metadata.name"), id);
    ck_assert_str_eq(json_str_at(secret, "metadata.namespace"), "agenttier");
    assert_json(json_at(secret, "metadata.labels"),
                "{'agenttier.io/secret-purpose':'api-key','agenttier.io/api-key-user':'oidc-4711'}");
    cleanup_json json_t *record = key_record_read(secret);
    cleanup_free char *want =
        xasprintf("{'keyHash':'%s','userId':'oidc|4711','email':'ana@x.org','name':'ci','scopes':null,"
                  "'allowedNamespaces':null,'createdAt':'2026-07-21T04:16:07.512903441Z'}",
                  hash);
    assert_json(record, want);
    cleanup_json json_t *shown = key_record_public(record);
    cleanup_free char *want_shown = xasprintf(
        "{'id':'%s','userId':'oidc|4711','name':'ci','createdAt':'2026-07-21T04:16:07.512903441Z'}", id);
    assert_json(shown, want_shown);
    ck_assert_int_eq(key_record_expiry(record), 0);
    struct identity who;
    key_record_identity(record, &who);
    ck_assert_str_eq(who.sub, "oidc|4711");
    ck_assert_str_eq(who.name, "ci");
    ck_assert(!who.is_admin && !who.sandbox_id && !who.groups);
    identity_free(&who);
    /* The text of the key is nowhere in what is stored. */
    cleanup_free char *text = json_dumps(secret, 0);
    ck_assert_ptr_null(strstr(text, key_text + 4));
}
END_TEST

START_TEST(a_scoped_key_is_bound_and_never_admin) {
    cleanup_json json_t *groups = json_of("['team']");
    struct key_request q = request_of("ana");
    q.sandbox_id = "demo";
    q.sandbox_namespace = "default";
    q.sandbox_uid = "u-1";
    q.action_groups = 1u << GROUP_STOP | 1u << GROUP_RUN_COMMAND;
    q.expires_in_ns = 3600500000000;
    q.admin = true;
    q.groups = groups;
    cleanup_json json_t *secret = secret_of(&q);
    cleanup_json json_t *record = key_record_read(secret);
    ck_assert_str_eq(json_str_at(record, "sandboxNamespace"), "default");
    ck_assert_str_eq(json_str_at(record, "expiresAt"), "2026-07-21T05:16:08.012903441Z");
    ck_assert_int_eq(key_record_expiry(record), (now.tv_sec + 3601) * 1000 + 12);
    struct identity who;
    key_record_identity(record, &who);
    ck_assert_str_eq(who.sandbox_id, "demo");
    ck_assert_str_eq(who.sandbox_uid, "u-1");
    ck_assert_uint_eq(who.action_groups, q.action_groups);
    ck_assert(!who.is_admin && !who.groups);
    identity_free(&who);
    cleanup_json json_t *shown = key_record_public(record);
    assert_json(json_object_get(shown, "actionGroups"), "['run-command','stop']");
    ck_assert_ptr_null(json_object_get(shown, "keyHash"));
}
END_TEST

START_TEST(an_admin_key_of_the_command) {
    cleanup_json json_t *groups = json_of("['team','core']");
    struct key_request q = request_of("root");
    q.admin = true;
    q.groups = groups;
    cleanup_json json_t *secret = secret_of(&q);
    cleanup_json json_t *record = key_record_read(secret);
    struct identity who;
    key_record_identity(record, &who);
    ck_assert(who.is_admin);
    assert_json(who.groups, "['team','core']");
    identity_free(&who);
}
END_TEST

/* What is wrong in a record grants nothing. */
START_TEST(records_that_are_not_right) {
    static const char *const records[] = {
        "{'userId':7,'email':[],'name':{},'sandboxId':3,'admin':'true','groups':'x'}",
        "{}",
    };
    for (size_t i = 0; i < sizeof records / sizeof records[0]; i++) {
        cleanup_json json_t *record = json_of(records[i]);
        struct identity who;
        key_record_identity(record, &who);
        ck_assert_str_eq(who.sub, "");
        ck_assert(!who.is_admin && !who.groups && !who.sandbox_id);
        identity_free(&who);
    }
    cleanup_json json_t *scoped =
        json_of("{'userId':'a','sandboxId':'s','actionGroups':['delete','stop',7,'x']}");
    struct identity who;
    key_record_identity(scoped, &who);
    ck_assert_uint_eq(who.action_groups, 1u << GROUP_STOP);
    identity_free(&who);
    static const char *const expiries[] = {"{'expiresAt':'soon'}", "{'expiresAt':7}", "{'expiresAt':''}",
                                           "{'expiresAt':'0001-01-01T00:00:00Z'}"};
    for (size_t i = 0; i < sizeof expiries / sizeof expiries[0]; i++) {
        cleanup_json json_t *record = json_of(expiries[i]);
        ck_assert_int_eq(key_record_expiry(record), 1);
    }
    cleanup_json json_t *never = json_of("{'expiresAt':null}");
    ck_assert_int_eq(key_record_expiry(never), 0);

    struct key_request q = request_of("ana");
    static const char *const changes[] = {
        "{'metadata':{'labels':{'agenttier.io/secret-purpose':'runtime-token'}}}",
        "{'metadata':{'name':'agenttier-apikey-0000000000000000000000000000000000000000'}}",
        "{'metadata':{'name':'other'}}",
        "{'data':{'record':'!!!'}}",
        "{'data':{'record':'W10='}}",
        "{'data':{'keyHash':'YQ=='}}",
        "{'data':null}",
    };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        cleanup_json json_t *good = secret_of(&q);
        cleanup_json json_t *change = json_of(changes[i]);
        cleanup_json json_t *changed = json_merge_patch(good, change);
        cleanup_json json_t *record = key_record_read(changed);
        ck_assert_msg(record == NULL, "%s", changes[i]);
    }
}
END_TEST

START_TEST(user_labels) {
    static const char *const rows[][2] = {{"ana", "ana"},
                                          {"a7c1-x_.Y", "a7c1-x_.Y"},
                                          {"", "unknown"},
                                          {"|||", "user"},
                                          {"oidc|47", "oidc-47"},
                                          {"-a.", "a"},
                                          {"a@b.c/d", "a-b.c-d"},
                                          {"\xc3\xa9"
                                           "a",
                                           "a"},
                                          {"a\xc3\xa9"
                                           "b",
                                           "a-b"}};
    char out[64];
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        key_user_label(rows[i][0], out);
        ck_assert_str_eq(out, rows[i][1]);
    }
    char longer[200];
    memset(longer, 'x', 199);
    longer[199] = '\0';
    key_user_label(longer, out);
    ck_assert_uint_eq(strlen(out), 63);
    longer[62] = '.';
    key_user_label(longer, out);
    ck_assert_uint_eq(strlen(out), 62);
}
END_TEST

static void assert_refused(const char *text, const char *field) {
    cleanup_json json_t *body = json_of(text);
    struct key_body out;
    cleanup_error struct error err = {0};
    ck_assert_msg(!key_body_parse(body, 0, &out, &err), "taken: %s", text);
    assert_field_error(&err, field);
}

static struct key_body parsed(json_t *body) {
    struct key_body out;
    cleanup_error struct error err = {0};
    ck_assert_msg(key_body_parse(body, 0, &out, &err), "%s", err.message);
    return out;
}

START_TEST(bodies) {
    cleanup_json json_t *none = json_of("{}");
    struct key_body b = parsed(none);
    ck_assert(b.name[0] == '\0' && !b.sandbox_id && b.groups == 0 && b.expires_in_ns == 0);
    cleanup_json json_t *all = json_of("{'sandboxId':'demo','scopes':[],'expiresIn':'720h','name':'x'}");
    b = parsed(all);
    ck_assert_uint_eq(b.groups, ACTION_GROUPS_ALL);
    ck_assert_uint_eq((unsigned)__builtin_popcount(b.groups), 8);
    ck_assert_int_eq(b.expires_in_ns, 720 * 3600 * INT64_C(1000000000));
    cleanup_json json_t *alias = json_of("{'sandboxId':'demo','actionGroups':['stop']}");
    ck_assert_uint_eq(parsed(alias).groups, 1u << GROUP_STOP);
    cleanup_json json_t *both =
        json_of("{'sandboxId':'demo','actionGroups':['stop','ports'],'scopes':['ports','stop','stop']}");
    ck_assert_uint_eq(parsed(both).groups, 1u << GROUP_STOP | 1u << GROUP_PORTS);
    assert_refused("{'naem':'x'}", "naem");
    assert_refused("{'admin':true}", "admin");
    assert_refused("{'name':7}", "name");
    assert_refused("{'expiresIn':'0'}", "expiresIn");
    assert_refused("{'expiresIn':'30d'}", "expiresIn");
    assert_refused("{'expiresIn':3600}", "expiresIn");
    assert_refused("{'scopes':['stop']}", "scopes");
    assert_refused("{'actionGroups':['stop'],'sandboxId':''}", "actionGroups");
    assert_refused("{'sandboxId':'a','scopes':['delete']}", "scopes");
    assert_refused("{'sandboxId':'a','scopes':['STOP']}", "scopes");
    assert_refused("{'sandboxId':'a','scopes':[7]}", "scopes");
    assert_refused("{'sandboxId':'a','scopes':'stop'}", "scopes");
    assert_refused("{'sandboxId':7}", "sandboxId");
    assert_refused("{'sandboxId':'a','scopes':['stop'],'actionGroups':['ports']}", "actionGroups");
    assert_refused("{'sandboxId':'a','scopes':[],'actionGroups':['ports']}", "actionGroups");
    char label[420];
    for (int i = 0; i < 201; i++)
        memcpy(label + 2 * i, "\xc3\xa9", 2);
    label[402] = '\0';
    cleanup_free char *longer = xasprintf("{'name':'%s'}", label);
    assert_refused(longer, "name");
    cleanup_free char *fits = xasprintf("{'name':'%s'}", label + 2);
    cleanup_json json_t *body = json_of(fits);
    ck_assert_str_eq(parsed(body).name, label + 2);
}
END_TEST

START_TEST(W75_longest_life) {
    static const int64_t hour = 3600000000000;
    cleanup_error struct error err = {0};
    struct key_body out;
    cleanup_json json_t *forever = json_of("{}"), *longer = json_of("{'expiresIn':'61m'}"),
                        *shorter = json_of("{'expiresIn':'59m'}");
    ck_assert(key_body_parse(forever, hour, &out, &err));
    ck_assert_int_eq(out.expires_in_ns, hour);
    ck_assert(key_body_parse(shorter, hour, &out, &err));
    ck_assert_int_eq(out.expires_in_ns, hour / 60 * 59);
    ck_assert(!key_body_parse(longer, hour, &out, &err));
    assert_field_error(&err, "expiresIn");
}
END_TEST

START_TEST(W54_a_use_is_written_into_the_record) {
    struct key_request q = request_of("ana");
    cleanup_json json_t *secret = secret_of(&q);
    cleanup_json json_t *record = key_record_read(secret);
    ck_assert_int_eq(key_record_last_used(record), 0);
    cleanup_json json_t *patch = key_record_used_patch(secret, now);
    cleanup_json json_t *used = json_merge_patch(secret, patch);
    cleanup_json json_t *after = key_record_read(used);
    ck_assert_int_eq(key_record_last_used(after), now.tv_sec);
    json_object_del(after, "lastUsedAt");
    ck_assert(json_equal(record, after)); /* and nothing else */
    cleanup_json json_t *other = json_of("{'metadata':{'name':'x'}}");
    ck_assert_ptr_null(key_record_used_patch(other, now));
}
END_TEST

/* ---- the table, over the real store ---- */

START_TEST(keys_in_the_store_are_found_until_they_are_not) {
    char dir[] = "/tmp/agenttier-test-keys-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(dir));
    cleanup_error struct error err = {0};
    struct store *store = local_store_open(dir, &err);
    ck_assert_msg(store != NULL, "%s", err.message);
    char keys[200][API_KEY_LEN + 1];
    struct key_request q = request_of("ana");
    cleanup_json json_t *record = NULL;
    ck_assert(key_create(store, "", &q, keys[0], &record, &err)); /* before the table exists */
    struct key_cache *cache = key_cache_new(store, NULL);
    for (int i = 1; i < 200; i++) {
        q.sandbox_id = i == 7 ? "demo" : NULL;
        q.sandbox_uid = i == 7 ? "u-7" : NULL;
        q.expires_in_ns = i == 8 ? 1 : 0;
        ck_assert(key_create(store, "agenttier", &q, keys[i], NULL, &err));
        ck_assert_uint_eq(strlen(keys[i]), API_KEY_LEN);
    }
    struct identity who;
    for (int i = 0; i < 200; i++) {
        enum key_result got = key_cache_lookup(cache, slice_of(keys[i]), &who);
        ck_assert_int_eq(got, i == 8 ? KEY_EXPIRED : KEY_OK);
        if (got == KEY_OK) ck_assert_str_eq(who.sub, "ana");
        identity_free(&who);
    }
    ck_assert_int_eq(key_cache_lookup(cache, slice_of("atk_unknown"), &who), KEY_UNKNOWN);
    ck_assert_int_eq(key_cache_lookup(cache, slice_of(""), &who), KEY_UNKNOWN);
    ck_assert_ptr_null(who.sub);
    /* A key of another namespace is none. */
    char foreign[API_KEY_LEN + 1];
    q = request_of("eve");
    ck_assert(key_create(store, "team", &q, foreign, NULL, &err));
    ck_assert_int_eq(key_cache_lookup(cache, slice_of(foreign), &who), KEY_UNKNOWN);
    /* The id has 40 of the 64 digits: who has a key of the same id has not that key. */
    cleanup_json json_t *near = secret_of(&q);
    char hash[SHA256_HEX_LEN + 1];
    sha256_hex(slice_of(key_text), hash);
    hash[50] = hash[50] == '0' ? '1' : '0';
    cleanup_buffer struct buffer coded = {0};
    base64_encode(slice_of(hash), &coded);
    json_object_set_new(json_object_get(near, "data"), "keyHash", json_string(buffer_cstr(&coded)));
    cleanup_object struct object *kept = NULL;
    ck_assert(store->ops->create(store, KIND_SECRET, near, &kept, &err));
    unsigned char digest[SHA256_BYTES];
    sha256_bytes(slice_of(key_text), digest);
    ck_assert_int_eq(key_cache_lookup(cache, slice_of(key_text), &who), KEY_UNKNOWN);
    ck_assert(!key_cache_valid(cache, digest));
    ck_assert(store->ops->remove(store, KIND_SECRET, "agenttier", kept->name, NULL, &err));
    /* Lists: by the user id, not by its label (W-55). */
    cleanup_object_list struct object_list of_ana = key_cache_of_user(cache, "ana");
    ck_assert_uint_eq(of_ana.count, 200);
    cleanup_object_list struct object_list of_eve = key_cache_of_user(cache, "eve");
    ck_assert_uint_eq(of_eve.count, 0);
    cleanup_object_list struct object_list of_demo = key_cache_of_sandbox(cache, "u-7");
    ck_assert_uint_eq(of_demo.count, 1);
    /* W-75: what has expired makes room. */
    ck_assert(keys_remove_expired(cache, "ana", &err));
    ck_assert_uint_eq(key_cache_count(cache), 199);
    ck_assert_int_eq(key_cache_lookup(cache, slice_of(keys[8]), &who), KEY_UNKNOWN);
    /* W-54: uses reach the store, and a record that was used keeps its key working. */
    for (int i = 0; i < 200; i++) {
        cleanup_object struct object *used =
            store->ops->get(store, KIND_SECRET, "agenttier", json_str_at(record, "id"));
        cleanup_json json_t *shown = key_record_read(used->json);
        if (key_record_last_used(shown) != 0) break;
        ck_assert_msg(i < 199, "the use was not written down");
        usleep(50000);
    }
    ck_assert_int_eq(key_cache_lookup(cache, slice_of(keys[0]), &who), KEY_OK);
    identity_free(&who);
    ck_assert(keys_revoke_sandbox(cache, "u-7", &err));
    ck_assert_int_eq(key_cache_lookup(cache, slice_of(keys[7]), &who), KEY_UNKNOWN);
    ck_assert(store->ops->remove(store, KIND_SECRET, "agenttier", json_str_at(record, "id"), NULL, &err));
    ck_assert_int_eq(key_cache_lookup(cache, slice_of(keys[0]), &who), KEY_UNKNOWN);
    key_cache_free(cache);
    local_store_close(store);
    cleanup_free char *clean = xasprintf("rm -rf '%s'", dir);
    ck_assert_int_eq(system(clean), 0);
}
END_TEST

RUN_TESTS("keys", a_user_key, a_scoped_key_is_bound_and_never_admin, an_admin_key_of_the_command,
          records_that_are_not_right, user_labels, bodies, W75_longest_life,
          W54_a_use_is_written_into_the_record, keys_in_the_store_are_found_until_they_are_not)
