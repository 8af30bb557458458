/* A Sandbox as the API shows it (http-api.md 2.3), rendered once per stored object and kept
 * with it: reading one sandbox or a list of them costs no JSON work. */
#pragma once

#include "backend/store.h"
#include "common/bytes.h"

struct sandbox_view {
    struct slice json;      /* the object's text, without a newline; a newline follows it */
    const char *owner;      /* spec.createdBy.sub or "" */
    const char *status;     /* as shown: Creating, Running, Stopped, Error, Deleting */
    const char *template;   /* as shown */
    const char *replay_key; /* of the Idempotency-Key it was created with, or "" */
    bool shared;            /* spec.sharing names somebody */
    bool has_links;         /* spec.sharing has share links */
    char *memory[5];
};

/* Annotations of a sandbox that was created with an Idempotency-Key: the hash of the caller and
 * the key, and the digest of the body. They last as long as the sandbox. */
#define ANNOTATION_REPLAY_KEY    "agenttier.io/idempotency-key"
#define ANNOTATION_REPLAY_DIGEST "agenttier.io/idempotency-digest"
/* Set by stop, removed by whoever stops the sandbox: crds.md 8.2. */
#define ANNOTATION_ACTION "agenttier.io/action"
/* When stop was last accepted, RFC 3339; removed by resume. */
#define ANNOTATION_STOPPED_AT "agenttier.io/stop-requested-at"

/* Valid as long as the object. Thread-safe. */
const struct sandbox_view *sandbox_view_get(struct object *sandbox);

/* The phase as shown: Deleting with a deletionTimestamp, Creating before the first pass. Borrowed. */
const char *sandbox_status(const json_t *sandbox);
bool sandbox_is_deleting(const json_t *sandbox);
/* The resolved template's name, or the requested one until it is resolved. Borrowed. */
const char *sandbox_template(const json_t *sandbox);
/* An annotation's text or "". Borrowed. */
const char *sandbox_annotation(const json_t *sandbox, const char *name);
/* Running, but a stop was accepted a moment ago and has not been carried out. */
bool sandbox_is_stopping(const json_t *sandbox);

/* The object of 2.3: a new reference. Pure. */
json_t *sandbox_json(const json_t *sandbox);
/* The 201 answer of create, the same for a replay of it: a new reference. Pure. */
json_t *sandbox_created_json(const json_t *sandbox);
