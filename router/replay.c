/* See replay.h. */
#include "router/replay.h"

#include "router/exec_args.h"
#include "router/sandbox_view.h"

#include <stdio.h>
#include <string.h>

bool replay_read(struct request *r, struct replay *out, bool *given, struct error *err) {
    const char *key = request_header(r, "Idempotency-Key");
    *given = key != NULL;
    if (!key) return true;
    if (!idempotency_key_valid(key)) {
        error_set(err, 400, ERR_BAD_REQUEST, "Idempotency-Key must be 1 to 255 visible ASCII characters");
        return false;
    }
    cleanup_buffer struct buffer text = {0};
    buffer_append(&text, r->identity.sub, strlen(r->identity.sub) + 1);
    buffer_append_str(&text, key);
    sha256_hex(buffer_slice(&text), out->key);
    cleanup_free char *body = json_dumps(r->body, JSON_COMPACT | JSON_SORT_KEYS);
    sha256_hex(slice_of(body ? body : ""), out->digest);
    return true;
}

void replay_scope(struct replay *replay, const char *operation, const char *target) {
    cleanup_buffer struct buffer text = {0};
    buffer_printf(&text, "%s %s %s", operation, target, replay->digest);
    sha256_hex(buffer_slice(&text), replay->digest);
}

struct replay replay_part(const struct replay *whole, size_t i) {
    struct replay part = *whole;
    snprintf(part.digest + SHA256_HEX_LEN, sizeof part.digest - SHA256_HEX_LEN, ".%u", (unsigned)i);
    return part;
}

static bool has_key(const struct object *sandbox, const struct replay *replay) {
    return strcmp(sandbox_annotation(sandbox->json, ANNOTATION_REPLAY_KEY), replay->key) == 0 &&
           !sandbox_is_deleting(sandbox->json);
}

enum replay_match replay_match(const struct object *sandbox, const struct replay *replay) {
    if (!has_key(sandbox, replay)) return REPLAY_UNRELATED;
    bool same = strcmp(sandbox_annotation(sandbox->json, ANNOTATION_REPLAY_DIGEST), replay->digest) == 0;
    return same ? REPLAY_SAME : REPLAY_OTHER_BODY;
}

bool replay_is_sibling(const struct object *sandbox, const struct replay *whole) {
    const char *digest = sandbox_annotation(sandbox->json, ANNOTATION_REPLAY_DIGEST);
    return has_key(sandbox, whole) && strncmp(digest, whole->digest, SHA256_HEX_LEN) == 0 &&
           digest[SHA256_HEX_LEN] == '.';
}

struct object *replay_find(struct store *store, const struct replay *replay) {
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_SANDBOX, NULL);
    for (size_t i = 0; i < all.count; i++) {
        if (strcmp(sandbox_view_get(all.items[i])->replay_key, replay->key) != 0) continue;
        if (has_key(all.items[i], replay)) return object_ref(all.items[i]);
    }
    return NULL;
}

void replay_conflict(const struct object *sandbox, struct error *err) {
    error_set(err, 409, "idempotency_key_reused",
              "this Idempotency-Key was used with another body, for sandbox %s; use a new key",
              sandbox->name);
}

json_t *replay_annotations(const struct replay *replay) {
    return json_pack("{s:s, s:s}", ANNOTATION_REPLAY_KEY, replay->key, ANNOTATION_REPLAY_DIGEST,
                     replay->digest);
}
