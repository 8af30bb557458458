/* GET /sandboxes: which sandboxes a caller gets, a page at a time if asked for. Pure.
 * (http-api.md 1.14, 2.4; tutorial.md row 8) */
#pragma once

#include "router/identity.h"

#define SANDBOX_LIST_MAX_LIMIT 500

struct sandbox_filter {
    const char *status; /* ASCII case ignored; NULL or "" = any, as all of them */
    const char *template;
    const char *namespace;
    bool shared;  /* also those shared with the caller; each one says the caller's role */
    size_t limit; /* 0 = all */
    char *after;  /* "namespace/name" of the last one already seen, or NULL; owned */
};
void sandbox_filter_free(struct sandbox_filter *f);
#define cleanup_sandbox_filter __attribute__((cleanup(sandbox_filter_free)))

/* The query's texts (NULL = absent) as a filter; 400 invalid_field for a limit outside 1 to 500
 * and for a cursor that we did not give. The other texts are borrowed. */
bool sandbox_filter_parse(const char *limit, const char *cursor, struct sandbox_filter *out,
                          struct error *err);

struct sandbox_view;
/* How one sandbox is shown in a list; appends to `out`. */
typedef void sandbox_append_fn(void *ctx, const struct object *sandbox, const struct sandbox_view *view,
                               struct buffer *out);
/* As it is, with one member more, `role`: owner, collaborator or viewer, or admin for an administrator who
 * does not own it. `ctx` is the caller's struct identity. */
void sandbox_append_with_role(void *ctx, const struct object *sandbox, const struct sandbox_view *view,
                              struct buffer *out);

/* Appends the answer's text to `out`: {"sandboxes": [...], "continue"?: cursor}. `append` NULL: sandboxes as
 * they are. */
void sandbox_list_render(const struct object_list *all, const struct identity *caller,
                         const struct sandbox_filter *filter, sandbox_append_fn *append, void *ctx,
                         struct buffer *out);
