/* A Sandbox as somebody else stored it, and bodies of the share routes. Whatever is in spec.sharing: what is
 * shown holds no secret, a grant gives exactly its level and its removal takes it, a link is never used more
 * often than it may be, and a name of a port has one port. */
#include "common/json.h"
#include "router/ports.h"
#include "router/sharing.h"
#include "tests/fuzz/fuzz.h"

#define WHO "fuzz-caller"
#define NOW 1800000000

static void must(bool condition) {
    if (!condition) abort();
}

static struct identity caller(void) {
    return (struct identity){.sub = (char *)(uintptr_t)WHO, .email = (char *)(uintptr_t) ""};
}

/* A Sandbox whose spec is the object, owned by somebody else. */
static json_t *sandbox_of(const json_t *object) {
    json_t *spec = json_deep_copy(object);
    json_object_del(spec, "createdBy");
    return json_pack("{s:{s:s, s:s}, s:o}", "metadata", "name", "demo", "uid", "u", "spec", spec);
}

static void check_shown(const json_t *spec) {
    cleanup_json json_t *shown = share_json(spec);
    size_t i;
    json_t *link;
    must(json_is_array(json_object_get(shown, "users")) && json_is_array(json_object_get(shown, "groups")));
    must(json_is_array(json_object_get(shown, "shareLinks")));
    json_array_foreach(json_object_get(shown, "shareLinks"), i, link) {
        must(json_object_size(link) == 5);
        must(!json_object_get(link, "token") && !json_object_get(link, "tokenHash"));
    }
}

static void check_grants(const json_t *object) {
    struct identity who = caller();
    struct share_grant grant = {.identity = WHO, .list = SHARE_USERS, .level = "collaborator"};
    cleanup_json json_t *sandbox = sandbox_of(object);
    json_t *spec = json_object_get(sandbox, "spec");
    if (share_add(spec, &grant, NULL)) must(identity_access(&who, sandbox) == ACCESS_LEVEL_COLLABORATOR);
    grant.level = "viewer";
    if (share_add(spec, &grant, NULL)) must(identity_access(&who, sandbox) == ACCESS_LEVEL_VIEWER);
    share_remove(spec, WHO, SHARE_USERS | SHARE_GROUPS);
    must(identity_access(&who, sandbox) == ACCESS_LEVEL_NONE);
    must(!share_remove(spec, WHO, SHARE_USERS | SHARE_GROUPS));
    check_shown(spec);
}

static json_int_t uses(const json_t *link) {
    return json_integer_value(json_object_get(link, "usedCount"));
}

static void check_redemption(const json_t *object, const char *token) {
    struct identity who = caller();
    cleanup_json json_t *sandbox = sandbox_of(object);
    json_t *spec = json_object_get(sandbox, "spec");
    share_remove(spec, WHO, SHARE_USERS | SHARE_GROUPS);
    const json_t *link = share_link_find(spec, token);
    json_int_t before = uses(link), most = json_integer_value(json_object_get(link, "maxUses"));
    enum access_level level = ACCESS_LEVEL_NONE;
    cleanup_error struct error err = {0};
    bool in = share_link_redeem(sandbox, token, &who, NOW, &level, &err);
    must(!in || link);
    must(identity_access(&who, sandbox) == (in ? level : ACCESS_LEVEL_NONE));
    if (!in) {
        must(err.status == 404 || err.status == 410 || err.status == 409);
        return;
    }
    json_int_t after = uses(share_link_find(spec, token));
    must(after > 0 && (most <= 0 || after <= most));
    must(before < 0 || before > INT32_MAX || after == before + 1);
}

static bool never(void *ctx, int port, const char *name) {
    (void)ctx, (void)port, (void)name;
    return false;
}

static void check_port_names(const char *text) {
    cleanup_json json_t *sandbox =
        json_pack("{s:{s:{s:s}}}", "metadata", "annotations", ANNOTATION_PORT_NAMES, text);
    if (!sandbox) return;
    int holder = port_name_claim(sandbox, "web", 8000, NOW, never, NULL);
    must(holder >= 0 && holder <= 65535 && holder != 8000);
    if (holder == 0) must(port_name_claim(sandbox, "web", 8001, NOW, never, NULL) == 8000);
    port_name_release(sandbox, 8000);
    if (holder == 0) must(port_name_claim(sandbox, "web", 8001, NOW, never, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct slice bytes = slice_make((const char *)data, size);
    cleanup_json json_t *object = json_parse_object(bytes, NULL);
    if (!object) return 0;
    struct share_grant grant;
    struct share_link_request link;
    cleanup_error struct error err = {0};
    if (share_grant_parse(object, &grant, &err))
        must(grant.list == SHARE_USERS || grant.list == SHARE_GROUPS);
    error_clear(&err);
    if (share_link_parse(object, &link, &err))
        must(link.level && link.max_uses >= 0 && link.expires_in_ns >= 0);
    check_shown(object);
    check_grants(object);
    check_redemption(object, "token");
    cleanup_free char *text = json_dumps(object, 0);
    check_port_names(text);
    return 0;
}
