/* New sandboxes that start out with the workspace of another: what clone and restore have in common.
 * (http-api-extended.md 5.2, 5.5; W-11, W-12, W-85) */
#pragma once

#include "router/request.h"
#include "router/snapshot.h"

struct sandbox_copy {
    char name[GENERATED_NAME_MAX + 1];
    bool replayable, replayed;
    struct replay replay;
    json_t *object;         /* the Sandbox to create; owned */
    struct object *sandbox; /* what was made, or, when replayed, by an earlier attempt; owned */
};
void sandbox_copy_clear(struct sandbox_copy *copy);
#define cleanup_sandbox_copy __attribute__((cleanup(sandbox_copy_clear)))

/* A member of the body that is a text, without surrounding blanks: "" when it is absent or empty. 400. */
bool copy_text(const json_t *body, const char *name, char *out, size_t size, struct error *err);

/* Reads `name` and the Idempotency-Key for operation `word` ("clone", "restore") on what `origin` names. When
 * an earlier attempt has made the sandbox: copy->replayed, copy->sandbox. Else copy->name is free. 400, 409.
 */
bool sandbox_copy_begin(struct request *r, const char *word, const char *origin, struct sandbox_copy *copy,
                        struct error *err);
/* Builds copy->object: the caller's, with the spec of `source` but for whom that is shared with, and asks
 * whether policy and quotas would let it in. `label` says where it comes from. */
bool sandbox_copy_check(struct request *r, const struct object *source, const char *snapshot,
                        const char *label, struct sandbox_copy *copy, struct error *err);
/* Stores it. `*made_nothing` (may be NULL): on failure, that it is certain that there is no such sandbox. */
bool sandbox_copy_store(struct request *r, struct sandbox_copy *copy, bool *made_nothing, struct error *err);
